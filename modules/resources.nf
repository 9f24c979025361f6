// Requests that grow only where the last attempt was short: more memory after exit 137, more time after 140.
// Preemptions in between change nothing.

// A scheduler that kills a whole job for its memory leaves no exit status, as a lost node does: a job that ended so again
// gets more memory, too.
def memoryOf(task, first) {
    def last = task.previousTrace
    def short_of_it = last?.exit == 137 || last?.exit == Integer.MAX_VALUE && task.attempt > 2
    return last?.memory ? (last.memory as nextflow.util.MemoryUnit) * (short_of_it ? 2 : 1) : (first as nextflow.util.MemoryUnit)
}

def timeOf(task, first) {
    def last = task.previousTrace
    return last?.time ? (last.time as nextflow.util.Duration) * (last.exit == 140 ? 2 : 1) : (first as nextflow.util.Duration)
}

// How often a GPU's memory was short (exit 76) in the attempts so far. The last attempt's own script says how often
// before it; a preemption in between changes nothing.
def memoryStepOf(task) {
    def last = task.previousTrace
    def before = last?.script =~ /--memory-step (\d+)/
    return (before.find() ? before.group(1).toInteger() : 0) + (last?.exit == 76 ? 1 : 0)
}

// Bytes of a sorting unit's preprocessed traces.
def bytesOf(folder) {
    def traces = folder.resolve('traces.bin')
    return traces.exists() ? traces.size() : 0L
}

// What a sorter asks for at first, by the size of the traces: channels × samples × 2 bytes.
def sortMemory(folder) {
    return 8.GB + 1.MB * Math.ceil(bytesOf(folder) / 4e6).toLong()
}

// 384 channels: 1 GB is 43 s of recording. On two cores Kilosort 4 takes some 250 s for it.
def sortTime(folder, on_gpu) {
    return 2.h + 1.s * Math.ceil(bytesOf(folder) / 1e9 * (on_gpu ? 100 : 750)).toLong()
}

// Sorters that run on a GPU, by SpikeInterface's own word (its gpu_capability).
def usesGpu(sorter) {
    return sorter in ['ironclust', 'kilosort', 'kilosort2', 'kilosort2_5', 'kilosort3', 'kilosort4', 'pykilosort', 'rtsort', 'yass']
}

// Kilosort's checkpoints of one unit. A function, so that the folder is no part of the task's identity.
def checkpointOption(meta) {
    return params.checkpoint_dir ? "--checkpoint-dir '${file(params.checkpoint_dir)}/${tagOf(meta).replace('/', '_')}'" : ''
}

// A session's folder below outdir: subject/YYYY-MM-DD/NNN, or subject/concatenated_NAME for what sessions share.
def folderOf(meta) {
    return "${meta.subject}/${meta.session ==~ /\d{4}-\d{2}-\d{2}_\d{3}/ ? meta.session.replace('_', '/') : meta.session}".toString()
}

// subject/session[/probe[/unit or stream]], by which a task's failure is found again (subworkflows/failures.nf).
def tagOf(meta) {
    return [meta.subject, meta.session, meta.probe ?: meta.stream, meta.unit ?: meta.stream].findAll { part -> part }.join('/')
}
