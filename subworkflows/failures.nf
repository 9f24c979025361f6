// What went wrong in a run, read from its trace: Nextflow itself hands a workflow no list of failed tasks.

// Failed tasks that no later attempt made good: a list of
// [subject, session, probe ('' for a whole session), shank, stage, exit, reason, log], sorted.
// A task's tag is subject/session[/probe[/shank or stream]].
def failedTasks() {
    def trace = file(nextflow.Global.session.config.trace.file)
    if (!trace.exists()) {
        return []
    }
    def lines = trace.readLines()
    def columns = lines[0].split('\t') as List
    def rows = lines.drop(1).collect { line -> [columns, line.split('\t', -1) as List].transpose().collectEntries { pair -> [pair[0], pair[1]] } }
    def sound = rows.findAll { row -> row.status in ['COMPLETED', 'CACHED'] }.collect { row -> [row.process, row.tag] }
    return rows
        .findAll { row -> row.status in ['FAILED', 'ABORTED'] && !([row.process, row.tag] in sound) }
        .groupBy { row -> [row.process, row.tag] }
        .collect { _task, attempts -> describe(attempts.max { row -> row.attempt as Integer }) }
        .sort { failure -> [failure.subject, failure.session, failure.probe, failure.stage, failure.shank].join('/') }
}

def describe(row) {
    // REPORT, which is of no session, has no tag.
    def parts = row.tag == '-' ? [] : row.tag.tokenize('/')
    def log_file = file("${row.workdir}/.command.log")
    return [
        subject: parts[0] ?: '',
        session: parts[1] ?: '',
        probe: parts[2] ?: '',
        shank: parts[3] ?: '',
        stage: row.process.tokenize(':').last(),
        exit: row.exit,
        reason: reason(row.exit, log_file, row.attempt),
        log: log_file.toString(),
    ]
}

// The message of the executable where it gave one, else what the exit status means.
def reason(exit, log_file, attempt) {
    def known = [
        '137': 'killed, most likely for memory',
        '140': 'it ran into its time limit',
        '143': 'preempted or cancelled',
        '-': 'the job ended without an exit status',
        '2147483647': 'the job ended without an exit status',
    ]
    def lines = log_file.exists() ? log_file.readLines() : []
    def said = lines.reverse().find { line -> line.startsWith('ERROR: ') }
    if (said) {
        return said - 'ERROR: '
    }
    if (exit in known) {
        return "${known[exit]} (${attempt} attempt${attempt == '1' ? '' : 's'})".toString()
    }
    return "exit status ${exit}: ${lines.findAll { line -> line.trim() }.takeRight(1).join('') ?: 'its log is empty'}".toString()
}

// One line for a person.
def failureLine(failure) {
    def what = [failure.subject, failure.session, failure.probe, failure.shank].findAll { part -> part }.join('/') ?: 'the run'
    return "${what}: ${failure.stage}: ${failure.reason}\n      log: ${failure.log}".toString()
}

// The failures, with one for each missing result. `missing` is a list of [subject, session, probe, joined]: joined is
// the name under which the session's probes are sorted, its own where they are sorted alone.
def explainedFailures(missing) {
    def failures = missing ? settledFailures(missing, 50) : failedTasks()
    // A probe can lack what is the whole session's (its reference clock): that failure stands under another name.
    def indirect = missing
        .findAll { lost -> !failures.any { failure -> [failure.subject, failure.session, failure.probe] == lost[0..2] } }
        .collect { lost ->
            def cause = failures.find { failure -> explains(failure, lost) }
            def reason = cause ? "it needs what failed in ${placeOf(cause, lost)}: ${cause.reason}".toString() : 'no result and no failed task: see .nextflow.log'
            [subject: lost[0], session: lost[1], probe: lost[2], shank: '', stage: cause?.stage ?: '', exit: cause?.exit ?: '', reason: reason, log: cause?.log ?: '']
        }
    return failures + indirect
}

// Whether a failure is of the session that lacks a result, or of the recordings that it was joined with.
def explains(failure, lost) {
    return [failure.subject, failure.session] == lost[0..1] || [failure.subject, failure.session, failure.probe] == [lost[0], lost[3], lost[2]]
}

def placeOf(failure, lost) {
    def session = failure.session == lost[1] ? '' : failure.session
    return [session, failure.probe].findAll { part -> part }.join('/') ?: 'the session'
}

// The failed tasks when the trace has a line for each session that misses something, which can be a moment after
// the failure itself.
def settledFailures(missing, tries) {
    sleep(200)
    def failures = failedTasks()
    def settled = missing.every { lost -> failures.any { failure -> explains(failure, lost) } }
    return settled && tries < 46 || tries == 0 ? failures : settledFailures(missing, tries - 1)
}
