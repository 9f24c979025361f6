include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Finds every rising and falling edge on a stream's digital lines, in one pass over its raw files.
process EDGES {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/raw_ephys_data/${meta.probe}", mode: params.publish_dir_mode, pattern: 'ibl/*', saveAs: { name -> name - 'ibl/' }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    // kind: 'probe' for a probe's document, 'stream' for a DAQ stream's, which comes with the wiring file.
    tuple val(meta), val(kind), val(document), path(files, stageAs: 'raw?/*'), path(wiring)
    val code

    output:
    tuple val(meta), path('edges.npz'), emit: edges
    path 'ibl/*', emit: ibl
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = wiring ? "--wiring ${wiring}" : ''
    """
    cat > ${kind}.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_edges.py --${kind} ${kind}.json --raw-dir . --out edges.npz --ibl-out ibl ${given}
    """

    stub:
    """
    mkdir ibl
    touch edges.npz ibl/_spikeglx_sync.times.npy
    echo '{}' > versions.json
    """
}
