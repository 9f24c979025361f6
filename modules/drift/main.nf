include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// How a sorting unit's tissue moved along its channels, drawn and published, beside the sorting. With options.drift
// 'dredge' also the unit's folder with that motion taken back, which is then sorted in place of PREPROCESS's.
process DRIFT {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}", mode: params.publish_dir_mode, pattern: 'drift', saveAs: { meta.unit == 'probe' ? 'drift' : "drift/${meta.unit}" }

    cpus 4
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 4.h) }

    input:
    tuple val(meta), path(traces, stageAs: 'traces')
    val options
    val code

    output:
    tuple val(meta), path('drift'), emit: drift
    tuple val(meta), path('corrected'), optional: true, emit: corrected
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    pp_drift.py --unit-dir traces --out drift --drift ${options.drift} --jobs ${task.cpus} --seed ${options.seed} \\
        ${options.drift == 'dredge' ? '--corrected corrected' : ''}
    """

    stub:
    """
    mkdir drift ${options.drift == 'dredge' ? 'corrected' : ''}
    echo '{}' > drift/motion.json
    touch drift/drift.png
    ${options.drift == 'dredge' ? "echo '{}' > corrected/recording.json" : ''}
    echo '{}' > versions.json
    """
}
