// What `powerpixels status` knows a run by: pipeline_info/run_<start>_<name>.json, written when it starts and when it ends.

include { usesGpu } from '../modules/resources'

// Written before any work; returns the file.
def recordStart(rows, opts) {
    def folder = file("${opts.outdir}/pipeline_info")
    folder.mkdirs()
    def record = folder.resolve("run_${workflow.start.format(java.time.format.DateTimeFormatter.ofPattern('yyyy-MM-dd_HH-mm-ss'))}_${workflow.runName}.json")
    def sessions = rows.collect { row ->
        def sorter = row[4].sorter ?: opts.sorter
        [subject: row[0].subject, session: row[0].session, sorted_as: row[4].session, probes: row[2], only_probes: row[4].only.probes, gpu: opts.device != 'cpu' && usesGpu(sorter)]
    }
    def told = [
        name: workflow.runName,
        session_id: workflow.sessionId.toString(),
        start: workflow.start.toInstant().toString(),
        end: null,
        success: null,
        work_dir: workflow.workDir.toString(),
        launch_dir: workflow.launchDir.toString(),
        trace: file(nextflow.Global.session.config.trace.file).toString(),
        parameters: opts.subMap(['only', 'stop_after', 'sort_by', 'drift', 'nwb', 'preprocessing', 'device']),
        sessions: sessions,
    ]
    record.text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(told))
    return record
}

def recordEnd(record, success) {
    def told = new groovy.json.JsonSlurper().parse(record) + [end: java.time.Instant.now().toString(), success: success]
    record.text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(told))
}
