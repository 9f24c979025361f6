include { memoryOf ; timeOf } from '../resources'

// One row for each probe of the results folder: what came of it, or why nothing did. Rows of other runs are those that
// they left there.
process REPORT {
    publishDir params.outdir, mode: params.publish_dir_mode, pattern: 'report/*', saveAs: { name -> name - 'report/' }
    publishDir "${params.outdir}/pipeline_info", mode: params.publish_dir_mode, pattern: 'rows/*/*'

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    path summaries, stageAs: 'summary?.json'
    path inventories, stageAs: 'inventory?.json'
    path agreements, stageAs: 'agreement?.json'
    path residuals, stageAs: 'residuals?.json'
    path notes, stageAs: 'notes?.json'
    path earlier, stageAs: 'earlier?.json'
    val failures
    val stopped
    val code

    output:
    path 'report/*', emit: report
    path 'rows/*/*', optional: true, emit: rows
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = [summaries ? "--summaries ${summaries}" : '', inventories ? "--inventories ${inventories}" : '', agreements ? "--agreements ${agreements}" : '', residuals ? "--residuals ${residuals}" : '', notes ? "--notes ${notes}" : '', earlier ? "--earlier ${earlier}" : ''].join(' ')
    """
    cat > failures.json <<'END_OF_DOCUMENT'
    ${failures}
    END_OF_DOCUMENT
    cat > stopped.json <<'END_OF_DOCUMENT'
    ${stopped}
    END_OF_DOCUMENT
    pp_report.py ${given} --failures failures.json --stopped stopped.json --out report --rows-out rows
    """

    stub:
    """
    mkdir report
    touch report/summary.csv
    echo '<!DOCTYPE html><title>Stub</title><p>A stub run: nothing was computed.</p>' > report/report.html
    cat > report/summary.json <<'END_OF_DOCUMENT'
    ${failures}
    END_OF_DOCUMENT
    cat > stopped.json <<'END_OF_DOCUMENT'
    ${stopped}
    END_OF_DOCUMENT
    for summary in ${summaries}; do
        row=\$(sed 's|.*"subject": "\\([^"]*\\)", "session": "\\([^"]*\\)".*|rows/\\1/\\2.json|' \$summary)
        mkdir -p \$(dirname \$row)
        sed 's|^{|[{"status": "done", |; s|}\$|}]|' \$summary > \$row
    done
    echo '{}' > versions.json
    """
}
