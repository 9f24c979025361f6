include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// What each labelling tool says of the units.
process LABEL {
    tag { tagOf(meta) }
    // Not into the sorter's own published folder: Nextflow may write that later, and takes away what is in it.
    publishDir "${params.outdir}/${folderOf(meta)}/spike_sorters/phy_labels/${meta.probe}", mode: params.publish_dir_mode, pattern: 'phy/*.tsv', saveAs: { name -> (meta.unit == 'probe' ? '' : "${meta.unit}/") + (name - 'phy/') }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}/labels", mode: params.publish_dir_mode, pattern: 'labels.json', saveAs: { _name -> "${meta.unit}.json" }

    cpus 1
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 2.h) }

    input:
    tuple val(meta), path(sorting), path(analysis)
    path bombcell_params, stageAs: 'bombcell_params.json'
    path ibl_params, stageAs: 'ibl_params.json'
    path models, stageAs: 'unitrefine_models'
    val code

    output:
    tuple val(meta), path('labels'), emit: labels
    path 'phy/*.tsv', emit: phy
    path 'labels.json', emit: provenance
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = [
        bombcell_params ? "--bombcell-params ${bombcell_params}" : '',
        ibl_params ? "--ibl-params ${ibl_params}" : '',
        models ? "--unitrefine-models ${models}" : '',
    ].join(' ')
    """
    pp_label.py --sorting ${sorting} --analysis ${analysis} --out labels ${given}
    cp -r labels/phy phy
    cp labels/labels.json .
    """

    stub:
    """
    mkdir labels phy
    touch labels/labels.csv phy/cluster_consensus.tsv
    echo '{}' > labels.json
    echo '{}' > versions.json
    """
}
