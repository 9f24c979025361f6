include { memoryOf ; timeOf } from '../resources'

// Publishes the session's events and analog traces on the NIDQ clock.
process EVENTS {
    tag "${meta.subject}/${meta.session}"
    publishDir "${params.outdir}/${meta.subject}/${meta.session.replace('_', '/')}", mode: params.publish_dir_mode, pattern: 'alf/*'

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    tuple val(meta), val(document), path(files, stageAs: 'raw/*'), path(edges)
    path wiring
    val code

    output:
    val meta, emit: done
    path 'alf/*', emit: alf
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > nidq.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_events.py --nidq nidq.json --raw-dir raw --edges ${edges} --wiring ${wiring} --out alf
    """

    stub:
    """
    mkdir alf
    touch alf/stub.times.npy
    echo '{}' > versions.json
    """
}
