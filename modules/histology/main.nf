include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Tracings of a session's probes as the picks that IBL's alignment tool starts from.
process HISTOLOGY {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/alf", mode: params.publish_dir_mode, pattern: 'histology/*/*.json', saveAs: { name -> name - 'histology/' }

    cpus 1
    memory { memoryOf(task, 4.GB) }
    time { timeOf(task, 30.min) }

    input:
    // A file or a folder of a histology tool under its own name, and the session's probes with their recorded shanks,
    // 'probe00:0,1,2,3'.
    // The fingerprint stands for the files below a folder, which Nextflow does not look at.
    tuple val(meta), path(tracing, stageAs: 'tracing/*'), val(fingerprint), val(probes)
    val code

    output:
    val meta, emit: done
    // None where the folder holds nothing but an alignment's results.
    tuple val(meta), path('histology/*/*.json'), optional: true, emit: picks
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    pp_histology.py --tracing tracing/* --probes ${probes.collect { name -> "'${name}'" }.join(' ')} --out histology
    """

    stub:
    """
    for probe in ${probes.collect { probe -> "'${probe.tokenize(':')[0]}'" }.join(' ')}; do
        mkdir -p "histology/\$probe"
        echo '{"xyz_picks": []}' > "histology/\$probe/xyz_picks.json"
    done
    echo '{}' > versions.json
    """
}
