include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Filters, aligns and references a probe's traces and writes them once, as int16, for each sorting unit. The
// document lists the recordings that are sorted as one, files are those of all of them in that order.
process PREPROCESS {
    tag { tagOf(meta) }
    label params.preprocessing == 'gpu' ? 'process_gpu' : 'process_cpu'
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}", mode: params.publish_dir_mode, pattern: 'preprocessed/{preprocess.json,muted.npy}', saveAs: { name -> name - 'preprocessed/' }

    cpus 8
    memory { memoryOf(task, 16.GB) }
    time { timeOf(task, 12.h) }
    accelerator params.preprocessing == 'gpu' ? 1 : null
    ext gpu: params.preprocessing == 'gpu'

    input:
    tuple val(meta), val(document), path(files, stageAs: 'raw?/*')
    val options
    val code

    output:
    // One folder a sorting unit: shank0, shank1, … or probe.
    tuple val(meta), path('preprocessed/preprocess.json'), path('preprocessed/*', type: 'dir'), emit: preprocessed
    tuple val(meta), path('preprocessed/muted.npy'), emit: muted
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > probe.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_preprocess.py --probe probe.json --raw-dir . --out preprocessed --jobs ${task.cpus} \\
        --preprocessing ${options.preprocessing} --reference ${options.reference} --local-radius-um ${options.local_radius_um} \\
        --reference-scope ${options.reference_scope} ${options.reference_multi_shank ? "--reference-multi-shank ${options.reference_multi_shank}" : ''} \\
        --notch ${options.notch} --notch-threshold-uv2-hz ${options.notch_threshold_uv2_hz} --mute ${options.mute} \\
        --highpass-hz ${options.highpass_hz} --sort-by ${options.sort_by} --seed ${options.seed}
    """

    stub:
    """
    for unit in ${options.sort_by == 'probe' ? 'probe' : 'shank0 shank1 shank2 shank3'}; do
        mkdir -p preprocessed/\$unit
        echo '{}' > preprocessed/\$unit/recording.json
    done
    echo '{}' > preprocessed/preprocess.json
    touch preprocessed/muted.npy
    echo '{}' > versions.json
    """
}
