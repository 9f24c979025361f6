include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Joins a probe's sorting units with its clock and channels into ALF.
process EXPORT {
    tag { tagOf(meta) }
    // File by file: of a folder that it published before Nextflow takes away what a person's revision left in it.
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'export/{alf/*,alf/tables/*,alf/drift/*/*,summary.json,agreement.json}', saveAs: { name -> published(name, meta.probe) }

    cpus 1
    memory { memoryOf(task, 8.GB) }
    time { timeOf(task, 4.h) }

    input:
    // sorting1, analysis1, labels1 and recording1.json belong to one sorting unit, sorting2 … to the next.
    // Not all units need have a motion. Locations: channel_locations*.json of an alignment, if there is one.
    tuple val(meta), val(document), path(preprocess), path(muted), path(sync), path(locations, stageAs: 'locations/*'), path(sortings, stageAs: 'sorting?'), path(analyses, stageAs: 'analysis?'), path(labels, stageAs: 'labels?'), path(recordings, stageAs: 'recording?.json'), path(motions, stageAs: 'motion?')
    val code

    output:
    tuple val(meta), path('export/summary.json'), emit: summary
    path 'export/agreement.json', emit: agreement
    path 'export/alf/*', type: 'file', emit: alf
    path 'export/alf/tables/*', emit: tables
    path 'export/alf/drift/*/*', optional: true, emit: drift
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    cat > probe.json <<'END_OF_DOCUMENT'
    ${document}
    END_OF_DOCUMENT
    pp_export.py --probe probe.json --preprocess ${preprocess} --muted ${muted} --sync ${sync} --out export \\
        --sorting ${sortings} --analysis ${analyses} --labels ${labels} --recording ${recordings} \\
        --motion ${motions} --locations ${locations}
    """

    stub:
    """
    mkdir -p export/alf/tables export/alf/drift/shank0
    touch export/alf/spikes.times.npy export/alf/tables/clusters.metrics.pqt export/alf/drift/shank0/drift.times.npy
    printf '{"subject": "%s", "session": "%s", "probe": "%s"}\\n' '${meta.subject}' '${meta.session}' '${meta.probe}' > export/summary.json
    echo '{}' > export/agreement.json
    echo '{}' > versions.json
    """
}

// Where a file of the export folder goes below the session's folder.
def published(name, probe) {
    def inside = name - 'export/'
    return inside in ['summary.json', 'agreement.json'] ? "qc/${probe}/${inside}"
        : inside.startsWith('alf/') ? "alf/${probe}/${inside - 'alf/'}"
        : inside
}
