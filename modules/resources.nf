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
