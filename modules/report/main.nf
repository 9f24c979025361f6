include { memoryOf ; timeOf } from '../resources'

// One row for each probe of the run: what came of it, or why nothing did.
process REPORT {
    publishDir params.outdir, mode: params.publish_dir_mode, pattern: 'report/*', saveAs: { name -> name - 'report/' }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    path summaries, stageAs: 'summary?.json'
    path inventories, stageAs: 'inventory?.json'
    path agreements, stageAs: 'agreement?.json'
    path residuals, stageAs: 'residuals?.json'
    path notes, stageAs: 'notes?.json'
    val failures
    val code

    output:
    path 'report/*', emit: report
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = [summaries ? "--summaries ${summaries}" : '', inventories ? "--inventories ${inventories}" : '', agreements ? "--agreements ${agreements}" : '', residuals ? "--residuals ${residuals}" : '', notes ? "--notes ${notes}" : ''].join(' ')
    """
    cat > failures.json <<'END_OF_DOCUMENT'
    ${failures}
    END_OF_DOCUMENT
    pp_report.py ${given} --failures failures.json --out report
    """

    stub:
    """
    mkdir report
    touch report/summary.csv report/report.html
    cat > report/summary.json <<'END_OF_DOCUMENT'
    ${failures}
    END_OF_DOCUMENT
    echo '{}' > versions.json
    """
}
