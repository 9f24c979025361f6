// What a head that died without a word (kill -9, a node's failure) left at work. Resumed, its tasks would be done a second
// time beside it; by Nextflow 24.10.0 to .3 in the very same folders.
// Nextflow keeps no list of jobs: those of a dead head stand in the log that it left in the launch folder.

// End what earlier attempts at this run left, before anything is submitted. Nobody else can be at that run:
// Nextflow lets one head at a time have a session.
def stopOrphans() {
    if (!workflow.resume) {
        return
    }
    def tasks = unfinishedTasks()
    def jobs = tasks.findAll { task -> task.job }.groupBy { task -> task.executor }
    jobs.each { executor, left -> stopJobs(executor, left.collect { task -> task.job }.unique()) }
    stopProcesses(tasks.collect { task -> task.folder } as Set)
    tasks.each { task -> setAside(task.folder) }
}

// Tasks that were submitted and not seen to end: [executor, job, folder], where job and executor are null for processes of
// this machine, and folder is as much of the task's folder as the log says.
def unfinishedTasks() {
    def logs = []
    file(workflow.launchDir).eachFileMatch(~/\.nextflow\.log\.\d/) { path -> logs.add(path) }
    // The oldest first: what one dead run left, the next may have done.
    def tasks = [:]
    logs.sort().reverse().each { path -> readLog(path, tasks) }
    return tasks.values() as List
}

// Bring the unfinished tasks, by the start of their hash, up to what a log says.
def readLog(path, tasks) {
    def told = [ours: false, whole: false, jobs: [:]]
    def work = workflow.workDir.toRealPath().toString()
    path.eachLine { line ->
        if (line.contains('Session UUID: ')) {
            told.ours = line.endsWith(workflow.sessionId.toString())
        }
        else if (!told.ours) {
            return
        }
        else if (line.contains('ubmitted process > ')) {
            def prefix = (line =~ /\[(\w\w\/\w+)\] (Re-s|S)ubmitted process > /)[0][1]
            tasks[prefix] = [executor: null, job: null, folder: "${work}/${prefix}".toString()] + (told.jobs[prefix] ?: [:])
        }
        else if (line.contains('] submitted process ')) {
            def found = line =~ /\[(\w+)\] submitted process .* > jobId: (\S+); workDir: (\S.*)$/
            if (found) {
                told.jobs[prefixOf(found[0][3])] = [executor: found[0][1].toLowerCase(), job: found[0][2]]
            }
        }
        else if (line.contains('Task completed > ')) {
            def found = line =~ /; workDir: (.*?)( started: .*)?\]$/
            if (found) {
                tasks.remove(prefixOf(found[0][1]))
            }
        }
        else if (line.endsWith('Execution complete -- Goodbye')) {
            told.whole = true
        }
    }
    if (told.whole) {
        tasks.clear()
    }
}

// Nextflow 24.10.0 to .3 do such a task again in its old folder, and would publish what the first attempt left there and
// take its end for the new one's. Put aside, and not removed: inputs in it are links, and its log may be wanted.
def setAside(start) {
    def named = file(start)
    def alike = named.parent.exists() ? named.parent.listFiles().findAll { folder -> folder.name.startsWith(named.name) } : []
    def found = alike.findAll { folder -> !folder.name.contains('.') }
    if (found.size() == 1) {
        def n_before = alike.count { folder -> folder.name.startsWith("${found[0].name}.lost") }
        java.nio.file.Files.move(found[0], found[0].resolveSibling("${found[0].name}.lost${n_before + 1}".toString()))
    }
}

// 'ab/012345' of '/somewhere/work/ab/0123456789abcdef0123456789abcd'.
def prefixOf(folder) {
    def parts = folder.tokenize('/')
    return "${parts[-2]}/${parts[-1].take(6)}".toString()
}

def stopJobs(executor, jobs) {
    def user = System.getProperty('user.name')
    def commands = [
        slurm: [list: ['squeue', '-h', '-u', user, '-o', '%A'], cancel: ['scancel']],
        sge: [list: ['qstat', '-u', user], cancel: ['qdel']],
        lsf: [list: ['bjobs', '-noheader', '-o', 'jobid'], cancel: ['bkill']],
        pbs: [list: ['qstat', '-u', user], cancel: ['qdel']],
        pbspro: [list: ['qstat', '-u', user], cancel: ['qdel']],
    ][executor]
    def queued = commands ? stillQueued(commands.list, jobs) : null
    if (queued == null) {
        log.warn("A run that was killed may have left jobs at work, and the queue can't be asked. If they still run, cancel them: ${jobs.join(' ')}")
        return
    }
    if (!queued) {
        return
    }
    log.warn("A run that was killed left ${queued.size()} job${queued.size() > 1 ? 's' : ''} in the queue: cancelling ${queued.join(' ')}")
    printedBy(commands.cancel + queued)
    def gone = (1..120).find { _try ->
        sleep(1000)
        stillQueued(commands.list, queued) == []
    }
    if (!gone) {
        error("jobs that a killed run left are still in the queue after two minutes: ${queued.join(' ')}; cancel them, then start again")
    }
}

// Those of the jobs that a scheduler lists, or null where it can't be asked. Lists name a job first, and some with more than
// its number.
def stillQueued(command, jobs) {
    def lines = printedBy(command)?.readLines()
    def numbers = lines?.collect { line -> (line.trim() =~ /^\d+/) }?.findAll { found -> found }?.collect { found -> found[0] }
    return numbers == null ? null : jobs.findAll { job -> (job =~ /^\d+/)[0] in numbers }
}

// What a command prints, or null where it fails or is not there. LSF's list of nothing is a failure.
def printedBy(command) {
    try {
        def started = new ProcessBuilder(command).redirectErrorStream(true).start()
        def text = started.inputStream.text
        return started.waitFor() == 0 || text.startsWith('No unfinished job') ? text : null
    }
    catch (java.io.IOException _missing) {
        return null
    }
}

// Processes of this machine: Nextflow's wrappers of tasks, and what they run.
def stopProcesses(folders) {
    def wrappers = wrappersIn(folders)
    if (!wrappers) {
        return
    }
    log.warn("A run that was killed left ${wrappers.size()} task${wrappers.size() > 1 ? 's' : ''} at work on this machine: ending ${wrappers.size() > 1 ? 'them' : 'it'}")
    // A shell heeds a signal only once the program that it waits for has ended.
    def all = wrappers.collectMany { wrapper -> wrapper.descendants().iterator().toList() + [wrapper] }
    all.each { one -> one.destroy() }
    def gone = (1..60).find { a_try ->
        sleep(1000)
        def alive = all.findAll { one -> one.isAlive() }
        if (a_try == 30) {
            alive.each { one -> one.destroyForcibly() }
        }
        !alive
    }
    if (!gone) {
        error("tasks that a killed run left are still at work after a minute: processes ${all.findAll { one -> one.isAlive() }.collect { one -> one.pid() }.join(' ')}; end them, then start again")
    }
}

def wrappersIn(folders) {
    return ProcessHandle.allProcesses().iterator().findAll { one ->
        def words = one.info().arguments().orElse(null)?.toList() ?: []
        def here = words.any { word -> word.endsWith('.command.run') } ? workingFolder(one) : ''
        folders.any { folder -> here.startsWith(folder) }
    }
}

// A process's working folder, '' where it is another user's or there is no such list.
def workingFolder(handle) {
    try {
        return java.nio.file.Files.readSymbolicLink(java.nio.file.Path.of("/proc/${handle.pid()}/cwd")).toString()
    }
    catch (java.io.IOException _hidden) {
        return ''
    }
}
