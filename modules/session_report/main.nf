include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// A page for each session: what was published of its probes, as figures and tables.
process SESSION_REPORT {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'report.html'

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 1.h) }

    input:
    // made1/* is the folder of the first of the head's parts, made2/* of the next.
    tuple val(meta), val(head), path(made, stageAs: 'made?/*')
    val code

    output:
    tuple val(meta), path('report.html'), emit: page
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > head.json <<'END_OF_DOCUMENT'
    ${head}
    END_OF_DOCUMENT
    pp_session_report.py --head head.json --made ${made} --out report.html
    """

    stub:
    """
    echo '<!DOCTYPE html><title>Stub</title><p>A stub run: nothing was computed.</p>' > report.html
    echo '{}' > versions.json
    """
}
