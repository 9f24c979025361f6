include { checkpointOption ; folderOf ; memoryOf ; memoryStepOf ; sortMemory ; sortTime ; tagOf ; timeOf ; usesGpu } from '../resources'

// Sorts one sorting unit. The only task that holds a GPU, where its sorter has a use for one, and it does nothing else.
process SORT {
    tag { tagOf(meta) }
    label 'process_gpu'
    publishDir "${params.outdir}/${folderOf(meta)}/spike_sorters/${sorter}/${meta.probe}", mode: params.publish_dir_mode, pattern: 'sorting', saveAs: { meta.unit == 'probe' ? '.' : meta.unit }

    cpus 4
    memory { memoryOf(task, sortMemory(traces)) }
    time { timeOf(task, sortTime(traces, params.device != 'cpu' && usesGpu(sorter))) }
    accelerator params.device == 'cpu' ? null : 1
    // An accelerator can't depend on the task's inputs: what asks a scheduler for one looks here too (conf/slurm.config).
    ext gpu: { usesGpu(sorter) }

    input:
    tuple val(meta), path(traces, stageAs: 'traces'), val(sorter), path(sorter_params)
    val options
    val code

    output:
    tuple val(meta), path('sorting'), emit: sorting
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def device = options.device == 'gpu' ? 'cuda' : options.device
    def given = sorter_params ? "--params ${sorter_params}" : ''
    def step = memoryStepOf(task)
    """
    pp_sort.py --unit-dir traces --out sorting --sorter ${sorter} --device ${device} --jobs ${task.cpus} \\
        --seed ${options.seed} --drift ${options.drift} ${given} ${options.keep_binary ? '--keep-binary' : ''} \\
        ${checkpointOption(meta)} ${step ? "--memory-step ${step}" : ''}
    """

    stub:
    def step = memoryStepOf(task)
    """
    mkdir sorting
    echo '{}' > sorting/sorting.json
    echo '{}' > versions.json
    echo ${sorter} ${sorter_params} ${step ? "--memory-step ${step}" : ''}
    """
}
