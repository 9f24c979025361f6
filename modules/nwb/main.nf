include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// A probe's units, electrodes and events as NWB, with its raw and LFP traces where asked for. Where the session's
// metadata lack what NWB demands there is none, and notes.json says what to add.
process NWB {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'written/nwb/*', saveAs: { name -> name - 'written/' }

    cpus 1
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 8.h) }

    input:
    // The probe's parts as EXPORT has them, then the session's metadata file or [], what EVENTS wrote, lfp.zarr and
    // the AP stream's files, the last two [] where not asked for.
    tuple val(meta), val(document), path(preprocess), path(sync), path(locations, stageAs: 'locations/*'), path(sortings, stageAs: 'sorting?'), path(analyses, stageAs: 'analysis?'), path(labels, stageAs: 'labels?'), path(recordings, stageAs: 'recording?.json'), path(metadata, stageAs: 'session_metadata/*'), path(events, stageAs: 'events/*'), path(lfp), path(files, stageAs: 'raw?/*')
    path lab, stageAs: 'lab_metadata/*'
    val options
    val code

    output:
    path 'written/nwb/*', emit: nwb, optional: true
    tuple val(meta), path('written/notes.json'), emit: notes
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    def given = [
        locations ? "--locations ${locations}" : '',
        metadata ? "--metadata ${metadata}" : '',
        lab ? "--lab-metadata ${lab}" : '',
        events ? '--events events' : '',
        lfp ? "--lfp ${lfp}" : '',
        files ? '--raw-dir .' : '',
    ].findAll { option -> option }.join(' ')
    """
    cat > probe.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_nwb.py --probe probe.json --preprocess ${preprocess} --sync ${sync} --backend ${options.nwb} --out written \\
        --sorting ${sortings} --analysis ${analyses} --labels ${labels} --recording ${recordings} ${given}
    """

    stub:
    """
    mkdir -p written/nwb
    touch written/nwb/${meta.probe}.nwb
    echo '{}' > written/notes.json
    echo '{}' > versions.json
    """
}
