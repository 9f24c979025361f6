include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Makes a compressed copy of one raw stream, read back and compared with the original before it is published.
process COMPRESS {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}/raw_ephys_data", mode: params.publish_dir_mode, pattern: 'compressed/**', saveAs: { name -> name - 'compressed/' }

    cpus 8
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 4.h) }

    input:
    tuple val(meta), val(document), path(files, stageAs: 'raw?/*')
    val options
    val code

    output:
    val meta, emit: done
    // File by file: of two streams that publish the same folder one would replace the other's.
    tuple val(meta), path('compressed/**', type: 'file', hidden: true), emit: copies
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > stream.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_compress.py --stream stream.json --raw-dir . --folder '${meta.probe}' --out compressed --method ${options.compress} --jobs ${task.cpus}
    """

    stub:
    """
    mkdir -p 'compressed/${meta.probe}/${meta.stream}.zarr'
    touch 'compressed/${meta.probe}/${meta.stream}.zarr/.zgroup'
    echo '{}' > versions.json
    """
}
