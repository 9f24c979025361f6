include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Levels, spectra, saturation and artifacts of a probe's raw bands, for the alignment tool and the report; with
// options.lfp also its LF band as zarr. files are the AP stream's, then the LF stream's; sync: sync.json, or [].
process RAW_QC {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/qc/${meta.probe}", mode: params.publish_dir_mode, pattern: 'raw_qc/*.{png,csv,json}', saveAs: { name -> name - 'raw_qc/' }
    publishDir "${params.outdir}/${folderOf(meta)}/alf/${meta.probe}", mode: params.publish_dir_mode, pattern: 'raw_qc/{*.npy,lfp.zarr}', saveAs: { name -> name - 'raw_qc/' }

    cpus 8
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 4.h) }

    input:
    tuple val(meta), val(document), path(files, stageAs: 'raw?/*'), path(sync, stageAs: 'sync.json')
    val options
    val code

    output:
    // Each by itself: Nextflow does not publish what lies inside another output.
    tuple val(meta), path('raw_qc/*'), emit: raw_qc
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > probe.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_raw_qc.py --probe probe.json --raw-dir . --out raw_qc --jobs ${task.cpus} --seed ${options.seed} \\
        --notch ${options.notch} --notch-threshold-uv2-hz ${options.notch_threshold_uv2_hz} \\
        ${sync ? '--sync sync.json' : ''} ${options.lfp ? '--lfp' : ''}
    """

    stub:
    """
    mkdir raw_qc
    echo '{}' > raw_qc/raw_qc.json
    touch raw_qc/levels.png raw_qc/_iblqc_ephysTimeRmsAP.rms.npy
    echo '{}' > versions.json
    """
}
