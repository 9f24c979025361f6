include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Sorts one sorting unit. The only task that holds a GPU, and it does nothing else.
process SORT {
    tag { tagOf(meta) }
    label 'process_gpu'
    publishDir "${params.outdir}/${folderOf(meta)}/spike_sorters/${options.sorter}/${meta.probe}", mode: params.publish_dir_mode, pattern: 'sorting', saveAs: { meta.unit == 'probe' ? '.' : meta.unit }

    cpus 4
    memory { memoryOf(task, 32.GB) }
    time { timeOf(task, 8.h) }
    accelerator params.device == 'cpu' ? null : 1

    input:
    tuple val(meta), path(traces, stageAs: 'traces')
    path sorter_params
    val options
    val code

    output:
    tuple val(meta), path('sorting'), emit: sorting
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def device = options.device == 'gpu' ? 'cuda' : options.device
    def given = sorter_params ? "--params ${sorter_params}" : ''
    """
    pp_sort.py --unit-dir traces --out sorting --sorter ${options.sorter} --device ${device} --jobs ${task.cpus} \\
        --seed ${options.seed} ${given}
    """

    stub:
    """
    mkdir sorting
    echo '{}' > sorting/sorting.json
    echo '{}' > versions.json
    """
}
