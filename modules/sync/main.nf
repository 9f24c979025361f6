include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Fits a stream's clock to the session's reference clock.
process SYNC {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'sync/*', saveAs: { name -> name.endsWith('.json') ? "qc/${meta.probe}/sync.json" : "alf/${meta.probe}/${name.tokenize('/').last()}" }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    // kind: 'probe' for a probe's document, 'stream' for a DAQ stream's.
    tuple val(meta), val(kind), val(document), path(edges, stageAs: 'edges.npz'), path(reference_edges, stageAs: 'reference_edges.npz')
    path wiring
    val code

    output:
    tuple val(meta), path('sync/sync.json'), emit: sync
    path 'sync/*.npy', emit: alf
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > document.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_sync.py --${kind} document.json --probe-edges edges.npz --reference-edges reference_edges.npz \\
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
