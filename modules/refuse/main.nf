include { tagOf } from '../resources'

// Fails on purpose for a probe (or a session) that INSPECT found unfit, so that it counts as failed in the
// trace, the summary and the run's exit status as any other failure does.
process REFUSE {
    tag { tagOf(meta) }

    cpus 1
    memory 100.MB
    time 10.min

    input:
    tuple val(meta), val(reason)

    output:
    val meta, emit: never

    script:
    """
    cat >&2 <<'END_OF_REASON'
    ERROR: ${reason}
    END_OF_REASON
    exit 65
    """

    stub:
    """
    cat >&2 <<'END_OF_REASON'
    ERROR: ${reason}
    END_OF_REASON
    exit 65
    """
}
