// Requests that grow only where the last attempt was short: more memory after exit 137, more time after 140.
// Preemptions in between change nothing.

def memoryOf(task, first) {
    def last = task.previousTrace
    return last?.memory ? (last.memory as nextflow.util.MemoryUnit) * (last.exit == 137 ? 2 : 1) : (first as nextflow.util.MemoryUnit)
}

def timeOf(task, first) {
    def last = task.previousTrace
    return last?.time ? (last.time as nextflow.util.Duration) * (last.exit == 140 ? 2 : 1) : (first as nextflow.util.Duration)
}

// A session's folder below outdir: subject/YYYY-MM-DD/NNN, or subject/concatenated_NAME for what sessions share.
def folderOf(meta) {
    return "${meta.subject}/${meta.session ==~ /\d{4}-\d{2}-\d{2}_\d{3}/ ? meta.session.replace('_', '/') : meta.session}".toString()
}

// subject/session[/probe[/unit or stream]], by which a task's failure is found again (subworkflows/failures.nf).
def tagOf(meta) {
    return [meta.subject, meta.session, meta.probe ?: meta.stream, meta.unit ?: meta.stream].findAll { part -> part }.join('/')
}
