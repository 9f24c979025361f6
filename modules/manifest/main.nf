include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// What was published of a probe, of a session itself or of one of its streams, with hashes, and what made it.
process MANIFEST {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}", mode: params.publish_dir_mode, pattern: 'manifest.json', saveAs: { name -> meta.stream ? "manifest_${meta.stream}.json" : name }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    // made1/* is the folder of the first of the head's parts, made2/* of the next; raw files are in the order of
    // its documents'.
    tuple val(meta), val(head), path(made, stageAs: 'made?/*'), path(raw, stageAs: 'raw?/*')
    val code

    output:
    tuple val(meta), path('manifest.json'), emit: manifest
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > head.json <<'END_OF_DOCUMENT'
    ${head}
    END_OF_DOCUMENT
    pp_manifest.py --head head.json --made ${made} --raw ${raw} --out manifest.json
    """

    stub:
    """
    echo '{}' > manifest.json
    echo '{}' > versions.json
    """
}
