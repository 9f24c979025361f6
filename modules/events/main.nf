include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Publishes a DAQ stream's events and analog traces on the session's reference clock.
process EVENTS {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'alf/*'

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    // Without sync the stream is the reference itself.
    tuple val(meta), val(document), path(files, stageAs: 'raw?/*'), path(edges), path(sync)
    path wiring
    val code

    output:
    val meta, emit: done
    tuple val(meta), path('alf/*'), emit: alf
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = sync ? "--sync ${sync}" : ''
    """
    cat > stream.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_events.py --stream stream.json --raw-dir . --edges ${edges} --wiring ${wiring} --out alf ${given}
    """

    stub:
    def folder = meta.probe in ['', 'nidq'] ? 'alf' : "alf/${meta.probe}"
    """
    mkdir -p ${folder}
    touch ${folder}/stub.times.npy
    echo '{}' > versions.json
    """
}
