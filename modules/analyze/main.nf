include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Waveforms, locations and quality metrics of one sorting unit's units.
process ANALYZE {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/analyzers/${meta.probe}", mode: params.publish_dir_mode, pattern: '*.zarr'
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}/labels", mode: params.publish_dir_mode, pattern: '*.csv', saveAs: { name -> "${meta.unit}_${name}" }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}/suggestions", mode: params.publish_dir_mode, pattern: 'suggestions.json', saveAs: { _name -> "${meta.unit}.json" }

    cpus 8
    memory { memoryOf(task, 16.GB) }
    time { timeOf(task, 8.h) }

    input:
    tuple val(meta), path(traces, stageAs: 'traces'), path(sorting)
    val options
    val code

    output:
    tuple val(meta), path('analysis'), emit: analysis
    path "${meta.unit}.zarr", optional: true, emit: analyzer
    path 'suggestions.json', optional: true, emit: suggestions
    path '*.csv', optional: true, emit: measured
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def components = options.pca_metrics ? '--pca-metrics' : ''
    """
    cat > measuring.json <<'END_OF_DOCUMENT'
    ${options.bombcell}
    END_OF_DOCUMENT
    pp_analyze.py --unit-dir traces --sorting ${sorting} --out analysis --jobs ${task.cpus} --seed ${options.seed} \\
        --bombcell-params measuring.json ${components}
    # Apart: Nextflow publishes nothing that lies inside another output.
    if [ -d analysis/analyzer.zarr ]; then
        cp -rl analysis/analyzer.zarr ${meta.unit}.zarr || cp -r analysis/analyzer.zarr ${meta.unit}.zarr
        cp analysis/suggestions.json analysis/bombcell.csv analysis/ibl_confidence.csv .
    fi
    """

    stub:
    """
    mkdir analysis ${meta.unit}.zarr
    touch ${meta.unit}.zarr/.zgroup bombcell.csv ibl_confidence.csv
    echo '{}' > analysis/analysis.json
    echo '{}' > suggestions.json
    echo '{}' > versions.json
    """
}
