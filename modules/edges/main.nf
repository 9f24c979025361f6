include { memoryOf ; timeOf } from '../resources'

// Finds every rising and falling edge on a stream's digital lines, in one pass over its raw file.
process EDGES {
    tag "${[meta.subject, meta.session, meta.probe].findAll { part -> part }.join('/')}"

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 4.h) }

    input:
    tuple val(meta), val(kind), val(document), path(files, stageAs: 'raw/*'), val(is_reference)
    val code

    output:
    tuple val(meta), path('edges.npz'), val(is_reference), emit: edges
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > ${kind}.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_edges.py --${kind} ${kind}.json --raw-dir raw --out edges.npz
    """

    stub:
    """
    touch edges.npz
    echo '{}' > versions.json
    """
}
