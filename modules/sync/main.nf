include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Fits a stream's clock to the session's reference clock.
process SYNC {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'sync/{sync.json,residuals.png,ibl/*}', saveAs: { name -> published(name, meta.probe) }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    // kind: 'probe' for a probe's document, 'stream' for a DAQ stream's.
    tuple val(meta), val(kind), val(document), path(edges, stageAs: 'edges.npz'), path(reference_edges, stageAs: 'reference_edges.npz')
    path wiring
    val options
    val code

    output:
    tuple val(meta), path('sync/sync.json'), emit: sync
    path 'sync/residuals.png', optional: true, emit: figure
    path 'sync/residuals.json', optional: true, emit: residuals
    path 'sync/ibl/*', emit: ibl
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > document.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_sync.py --${kind} document.json --probe-edges edges.npz --reference-edges reference_edges.npz \\
        --wiring ${wiring} --max-error-us ${options.sync_max_error_us} --out sync
    """

    stub:
    """
    mkdir -p sync/ibl
    echo '{}' > sync/sync.json
    echo '{}' > sync/residuals.json
    touch sync/residuals.png sync/ibl/stub.sync.npy
    echo '{}' > versions.json
    """
}

// Where a file of the sync folder goes below the session's folder.
def published(name, part) {
    def file = name.tokenize('/').last()
    return file == 'sync.json' ? "qc/${part}/sync.json" : file == 'residuals.png' ? "qc/${part}/sync_residuals.png" : "raw_ephys_data/${part}/${file}"
}
