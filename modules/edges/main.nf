include { memoryOf ; tagOf ; timeOf } from '../resources'

// Finds every rising and falling edge on a stream's digital lines, in one pass over its raw files.
process EDGES {
    tag { tagOf(meta) }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    // kind: 'probe' for a probe's document, 'stream' for a DAQ stream's.
    tuple val(meta), val(kind), val(document), path(files, stageAs: 'raw?/*')
    val code

    output:
    tuple val(meta), path('edges.npz'), emit: edges
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > ${kind}.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_edges.py --${kind} ${kind}.json --raw-dir . --out edges.npz
    """

    stub:
    """
    touch edges.npz
    echo '{}' > versions.json
    """
}
