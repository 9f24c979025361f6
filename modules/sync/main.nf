include { memoryOf ; timeOf } from '../resources'

// Fits a probe's clock to the session's reference clock.
process SYNC {
    tag "${meta.subject}/${meta.session}/${meta.probe}"
    publishDir "${params.outdir}/${meta.subject}/${meta.session.replace('_', '/')}", mode: params.publish_dir_mode, pattern: 'sync/*', saveAs: { name -> name.endsWith('.json') ? "qc/${meta.probe}/sync.json" : "alf/${meta.probe}/${name.tokenize('/').last()}" }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    tuple val(meta), val(document), path(edges, stageAs: 'probe_edges.npz'), path(reference, stageAs: 'reference_edges.npz')
    path wiring
    val code

    output:
    tuple val(meta), path('sync/sync.json'), emit: sync
    path 'sync/*.npy', emit: alf
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > probe.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_sync.py --probe probe.json --probe-edges probe_edges.npz --reference-edges reference_edges.npz \\
        --wiring ${wiring} --out sync
    """

    stub:
    """
    mkdir sync
    echo '{}' > sync/sync.json
    touch sync/stub.sync.npy
    echo '{}' > versions.json
    """
}
