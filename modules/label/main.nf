include { memoryOf ; tagOf ; timeOf } from '../resources'

// What each labelling tool says of the units.
process LABEL {
    tag { tagOf(meta) }

    cpus 1
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 2.h) }

    input:
    tuple val(meta), path(sorting), path(analysis)
    path bombcell_params
    val code

    output:
    tuple val(meta), path('labels'), emit: labels
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = bombcell_params ? "--bombcell-params ${bombcell_params}" : ''
    """
    pp_label.py --sorting ${sorting} --analysis ${analysis} --out labels ${given}
    """

    stub:
    """
    mkdir labels
    touch labels/labels.csv
    echo '{}' > versions.json
    """
}
