include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// A page that shows a stretch of a probe's traces after each step of preprocessing, the spectra before and after the
// notches, and its channels. files: those that were preprocessed, in that order.
process VISUALIZE {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}", mode: params.publish_dir_mode, pattern: 'preprocessing'

    cpus 1
    memory { memoryOf(task, 4.GB) }
    time { timeOf(task, 1.h) }

    input:
    tuple val(meta), path(preprocess, stageAs: 'preprocess.json'), path(files, stageAs: 'raw?/*')
    val code

    output:
    tuple val(meta), path('preprocessing'), emit: page
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    pp_visualize.py --preprocess preprocess.json --raw-dir . --out preprocessing
    """

    stub:
    """
    mkdir preprocessing
    touch preprocessing/index.html preprocessing/channels.png
    echo '{}' > versions.json
    """
}
