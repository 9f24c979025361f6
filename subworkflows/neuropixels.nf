include { channelLocationsAt ; codeDigest ; filesBelow ; fits } from './inputs'
include { explainedFailures   } from './failures'
include { folderNamed ; givenIn ; madeBy ; manifestOf ; pageOf ; parametersOf ; recordOf } from './manifest'
include { folderOf            } from '../modules/resources'
include { INSPECT             } from '../modules/inspect'
include { REFUSE              } from '../modules/refuse'
include { EDGES               } from '../modules/edges'
include { SYNC                } from '../modules/sync'
include { EVENTS              } from '../modules/events'
include { COMPRESS            } from '../modules/compress'
include { RAW_QC              } from '../modules/raw_qc'
include { HISTOLOGY           } from '../modules/histology'
include { PREPROCESS          } from '../modules/preprocess'
include { VISUALIZE           } from '../modules/visualize'
include { DRIFT               } from '../modules/drift'
include { SORT                } from '../modules/sort'
include { ANALYZE             } from '../modules/analyze'
include { LABEL               } from '../modules/label'
include { EXPORT              } from '../modules/export'
include { NWB                 } from '../modules/nwb'
include { REPORT              } from '../modules/report'
include { MANIFEST            } from '../modules/manifest'
include { SESSION_REPORT      } from '../modules/session_report'

// The way of the data: sessions → probes → sorting units, and back to probes. A probe's recordings of sessions that
// are to be sorted as one are joined at PREPROCESS and parted again at EXPORT; most often there is just one.
workflow NEUROPIXELS {
    take:
    sessions // channel: [ val(meta), path(raw), val(probes wanted), val(fingerprint), val(joined: [session, size]), val(histology or null) ]
    opts     // map: the parameters as the schema types them

    main:
    def wiring = file(opts.wiring ?: "${projectDir}/assets/wiring.json")
    // What traces the NWB is to have.
    def included = opts.nwb == 'none' ? [] : (opts.nwb_include ?: '').tokenize(',')

    INSPECT(sessions.map { meta, raw, _wanted, print, _joined, _histology -> [meta, raw, print] }, codeDigest('pp_inspect.py'))

    found = sessions
        .map { meta, raw, wanted, _print, joined, _histology -> [meta, raw, wanted, joined] }
        .join(INSPECT.out.inspect)
        .map { meta, raw, wanted, joined, documents -> [meta, joined, readInspection(meta, raw, wanted, joined.only, documents, opts.reference_clock)] }
    probes = found.flatMap { _meta, _joined, seen -> seen.probes } // [ val(meta), val(document), files, val(is reference), files of its LF ]
    daqs = found.flatMap { _meta, _joined, seen -> seen.daqs }     // the same for NIDQ and OneBox streams
    REFUSE(found.flatMap { _meta, _joined, seen -> seen.refused })

    // Copies of the raw streams, beside everything else.
    COMPRESS(
        found.flatMap { _meta, _joined, seen -> opts.compress == 'none' || !comesTo('compress', opts) ? [] : seen.streams },
        opts.subMap(['compress']),
        codeDigest('pp_compress.py')
    )

    // Clocks. Each stream's edges are found on their own, so that a changed file costs its own stream only.
    streams = probes
        .map { meta, document, files, is_reference, _lf_files -> [meta, 'probe', document, files, is_reference] }
        .mix(
            daqs.map { meta, document, files, is_reference -> [meta, 'stream', document, files, is_reference] },
            // A probe that --only leaves out, whose clock those that it chooses are on.
            found.flatMap { _meta, _joined, seen -> seen.clocks }
        )
        .filter { _stream -> comesTo('sync', opts) }
    EDGES(
        streams.map { meta, kind, document, files, _is_reference -> [meta, kind, document, files, kind == 'stream' ? wiring : []] },
        codeDigest('pp_edges.py')
    )
    reference_edges = streams
        .filter { _meta, _kind, _document, _files, is_reference -> is_reference }
        .map { meta, _kind, _document, _files, _is_reference -> [meta] }
        .join(EDGES.out.edges)
        .map { meta, edges -> [sessionOf(meta), edges] }
    SYNC(
        streams
            // A DAQ stream that is the reference needs no fit; a probe that is has one of its own.
            .filter { _meta, kind, _document, _files, is_reference -> kind == 'probe' || !is_reference }
            .map { meta, kind, document, _files, _is_reference -> [meta, kind, document] }
            .join(EDGES.out.edges)
            .map { meta, kind, document, edges -> [sessionOf(meta), meta, kind, document, edges] }
            .combine(reference_edges, by: 0)
            .map { _session, meta, kind, document, edges, reference -> [meta, kind, document, edges, reference] },
        wiring,
        opts.subMap(['sync_max_error_us']),
        codeDigest('pp_sync.py')
    )
    EVENTS(
        daqs
            .filter { _meta, _document, _files, is_reference -> is_reference }
            .map { meta, document, files, _is_reference -> [meta, document, files] }
            .join(EDGES.out.edges)
            .map { meta, document, files, edges -> [meta, document, files, edges, []] }
            .mix(
                daqs
                    .filter { _meta, _document, _files, is_reference -> !is_reference }
                    .map { meta, document, files, _is_reference -> [meta, document, files] }
                    .join(EDGES.out.edges)
                    .join(SYNC.out.sync)
            ),
        wiring,
        codeDigest('pp_events.py')
    )

    // Where the probes went, as traced by a histology tool.
    tracings = sessions
        .filter { _meta, _raw, _wanted, _print, _joined, histology -> histology && comesTo('histology', opts) }
        .map { meta, _raw, _wanted, _print, _joined, histology -> [meta] + histology }
        .join(found.map { meta, _joined, seen -> [meta, seen.shanks] })
        .filter { _meta, _tracing, _print, shanks -> shanks }
        .map { meta, tracing, print, shanks -> [meta + [stream: 'histology'], tracing, print, shanks] }
    HISTOLOGY(tracings, codeDigest('pp_histology.py'))

    // What the raw bands look like, beside the sorting.
    RAW_QC(
        probes
            .filter { _probe -> comesTo('raw_qc', opts) }
            .map { meta, document, files, _is_reference, lf_files -> [meta, document, files + lf_files] }
            .join(SYNC.out.sync),
        opts.subMap(['notch', 'notch_threshold_uv2_hz', 'seed']) + [lfp: opts.lfp || 'lfp' in included],
        codeDigest('pp_raw_qc.py')
    )

    // Where each probe's channels lie in the brain, once it was aligned.
    locations = sessions
        .map { meta, _raw, _wanted, _print, _joined, histology -> [meta, histology ? histology[0] : null] }
        .join(found.map { meta, _joined, seen -> [meta, seen.probes.collect { probe -> probe[0] }, seen.shanks.size() == 1] })
        .flatMap { _meta, histology, metas, alone -> metas.collect { probe -> [probe, channelLocations(probe, histology, alone, opts.outdir)] } }

    // Which recordings are sorted as one. Nothing is sorted whose clock can't be had.
    joined_of = found
        .map { meta, joined, seen -> [groupKey([meta.subject, joined.session], joined.size), seen.probes.collect { probe -> probe[0] }] }
        // Where a session's INSPECT failed its group is never full: it goes on at the end, without it.
        .groupTuple(remainder: true)
        .flatMap { key, metas -> joinedProbes(key.getGroupTarget()[1], metas.collectMany { own -> own }) } // [ val(meta), groupKey(joined meta) ]
    recordings = probes
        .filter { _probe -> comesTo('preprocess', opts) }
        .map { meta, document, files, _is_reference, _lf_files -> [meta, document, files] }
        .join(joined_of)
        .join(SYNC.out.sync)
        .map { meta, document, files, joined, _sync -> [joined, [meta.session, document, files]] }
        .groupTuple(remainder: true)
        .map { key, recordings -> [key.getGroupTarget()] + joinedRecordings(recordings) } // [ val(meta), val(document), files ]
    PREPROCESS(
        recordings,
        opts.subMap(['preprocessing', 'reference', 'reference_multi_shank', 'reference_scope', 'local_radius_um', 'highpass_hz', 'notch', 'notch_threshold_uv2_hz', 'mute', 'sort_by', 'seed']),
        codeDigest('pp_preprocess.py')
    )
    VISUALIZE(
        PREPROCESS.out.preprocessed
            .filter { _preprocessed -> comesTo('visualize', opts) }
            .map { meta, record, _folders -> [meta, record] }
            .join(recordings.map { meta, _document, files -> [meta, files] }),
        codeDigest('pp_visualize.py')
    )

    // Traces to units, one task for each sorting unit from SORT on.
    preprocessed = PREPROCESS.out.preprocessed.flatMap { meta, _record, folders -> sortingUnits(meta, folders) } // [ val(meta), path(folder) ]
    // The motion, beside the sorting; ahead of it where the traces are corrected for it.
    drifting = preprocessed.filter { _unit -> opts.drift != 'off' && comesTo('drift', opts) }
    DRIFT(drifting, opts.subMap(['drift', 'seed']), codeDigest('pp_drift.py'))
    units = opts.drift == 'dredge' ? DRIFT.out.corrected : preprocessed
    sorters = joined_of
        .map { meta, joined -> [sessionOf(meta), joined.getGroupTarget()] }
        .combine(sessions.map { meta, _raw, _wanted, _print, joined, _histology -> [meta] + sorterOf(joined, opts) }, by: 0)
        .map { _session, joined, sorter, parameters -> [joined, sorter, parameters] }
        .unique() // [ val(joined meta), val(sorter), val(path of its parameters or '') ]
    SORT(
        units
            .filter { _unit -> comesTo('sort', opts) }
            .map { meta, folder -> [probeOf(meta), meta, folder] }
            .combine(sorters, by: 0)
            .map { _probe, meta, folder, sorter, parameters -> [meta, folder, sorter, parameters ? file(parameters) : []] },
        opts.subMap(['device', 'seed', 'drift', 'keep_binary']),
        codeDigest('pp_sort.py')
    )
    ANALYZE(
        units.join(SORT.out.sorting).filter { _unit -> comesTo('analyze', opts) },
        opts.subMap(['seed', 'pca_metrics']) + [bombcell: bombcellMeasuring(opts.bombcell_params)],
        codeDigest('pp_analyze.py')
    )
    LABEL(
        SORT.out.sorting.join(ANALYZE.out.analysis).filter { _unit -> comesTo('label', opts) },
        opts.bombcell_params ? file(opts.bombcell_params) : [],
        opts.ibl_params ? file(opts.ibl_params) : [],
        opts.unitrefine_models ? file(opts.unitrefine_models) : [],
        codeDigest('pp_label.py')
    )

    // Gather: a probe goes on the moment its own last sorting unit is labelled, once for each of its sessions.
    labelled = SORT.out.sorting
        .join(ANALYZE.out.analysis)
        .join(LABEL.out.labels)
        .join(units)
        .map { meta, sorting, analysis, labels, folder -> [meta, [meta.unit, sorting, analysis, labels, folder.resolve('recording.json')]] }
    moved = opts.drift == 'off'
        ? labelled.map { meta, member -> [meta, member, null] }
        // A unit whose motion could not be had goes on at the end, without it.
        : labelled.join(DRIFT.out.drift, remainder: true).filter { _meta, member, _drift -> member }
    gathered = moved
        .map { meta, member, drift -> [groupKey(probeOf(meta), meta.n_units), member + [drift ?: []]] }
        .groupTuple()
        // In the units' order: that of their arrival differs between runs and would change the task.
        .map { key, members ->
            def parts = members.toSorted { member -> member[0] }.transpose().drop(1)
            [key.getGroupTarget()] + parts[0..3] + [parts[4].findAll { drift -> drift }]
        }
    exported = probes
        .filter { _probe -> comesTo('export', opts) }
        .map { meta, document, _files, _is_reference, _lf_files -> [meta, document] }
        .join(SYNC.out.sync)
        .join(locations)
        .join(joined_of)
        .map { meta, document, sync, places, joined -> [joined.getGroupTarget(), meta, document, sync, places] }
        .combine(PREPROCESS.out.preprocessed.map { meta, record, _folders -> [meta, record] }.join(PREPROCESS.out.muted).join(gathered), by: 0)
        .map { parts -> [parts[1], parts[2], parts[5], parts[6], parts[3], parts[4]] + parts.drop(7) } // [ val(meta), val(document), preprocess, muted, sync, locations, of each sorting unit: sortings, analyses, labels, recordings, motions ]
    EXPORT(exported, codeDigest('pp_export.py'))

    // The same as NWB, with the session's metadata and events, as soon as all of its DAQ streams have theirs.
    n_daqs = found.map { meta, _joined, seen -> [meta, seen.daqs.size()] }
    events = n_daqs
        .filter { _meta, n -> n == 0 }
        .map { meta, _n -> [meta, []] }
        .mix(
            EVENTS.out.alf
                .map { meta, files -> [sessionOf(meta), files] }
                .combine(n_daqs, by: 0)
                .map { session, files, n -> [groupKey(session, n), files] }
                .groupTuple()
                .map { key, files -> [key.getGroupTarget(), files.flatten().toSorted { entry -> entry.name }] }
        )
    lfps = RAW_QC.out.raw_qc.map { meta, files -> [meta, [files].flatten().find { entry -> entry.name == 'lfp.zarr' } ?: []] }
    NWB(
        exported
            .filter { _exported -> opts.nwb != 'none' }
            .map { parts -> parts[0..2] + parts[4..9] }
            .join('lfp' in included ? lfps : probes.map { probe -> [probe[0], []] })
            .join(probes.map { meta, _document, files, _is_reference, _lf_files -> [meta, 'raw' in included ? files : []] })
            .map { parts -> [sessionOf(parts[0])] + parts }
            .combine(sessions.map { meta, _raw, _wanted, _print, joined, _histology -> [meta, joined.metadata ? file(joined.metadata) : []] }, by: 0)
            .combine(events, by: 0)
            .map { parts -> parts[1..9] + parts[12..13] + parts[10..11] },
        opts.metadata ? file(opts.metadata) : [],
        opts.subMap(['nwb']),
        codeDigest('pp_nwb.py')
    )

    // Probes that came to where the run ends.
    whole = opts.stop_after in ['preprocess', 'visualize', 'drift']
        ? PREPROCESS.out.preprocessed.map { meta, _record, _folders -> [meta] }
        : (opts.stop_after == 'sort' ? SORT.out.sorting : opts.stop_after == 'analyze' ? ANALYZE.out.analysis : LABEL.out.labels)
            .map { meta, _made -> [groupKey(probeOf(meta), meta.n_units), meta.unit] }
            .groupTuple()
            .map { key, _units -> [key.getGroupTarget()] }
    arrived = !opts.stop_after
        ? EXPORT.out.summary.map { meta, _summary -> meta }
        : opts.stop_after in ['inspect', 'compress']
        ? probes.map { probe -> probe[0] }
        : opts.stop_after in ['sync', 'raw_qc']
        ? probes.map { probe -> [probe[0]] }.join(SYNC.out.sync).map { meta, _sync -> meta }
        : joined_of.map { meta, joined -> [joined.getGroupTarget(), meta] }.combine(whole, by: 0).map { _joined, meta -> meta }

    // The run's table, when nothing is left to do: what was exported, and what failed instead.
    expected = sessions
        .map { meta, _raw, _wanted, _print, joined, _histology -> [meta, joined] }
        .join(found.map { meta, _joined, seen -> [meta, seen] }, remainder: true)
        .flatMap { meta, joined, seen -> seen ? expectedOf(seen, opts).collect { id -> [id, joined.session] } : [[idOf(meta), joined.session]] }
    failures = expected
        .map { id, joined -> [true, id, joined] }
        .mix(
            tracings.map { meta, _tracing, _print, _names -> [true, idOf(meta), ''] },
            HISTOLOGY.out.done.map { meta -> [false, idOf(meta), ''] },
            arrived.map { meta -> [false, idOf(meta), ''] },
            EXPORT.out.summary.filter { _exported -> opts.nwb != 'none' }.map { meta, _summary -> [true, idOf(meta + [stream: 'nwb']), ''] },
            NWB.out.notes.map { meta, _notes -> [false, idOf(meta + [stream: 'nwb']), ''] },
            EVENTS.out.done.map { meta -> [false, idOf(meta), ''] },
            RAW_QC.out.raw_qc.map { meta, _files -> [false, idOf(meta + [stream: 'raw_qc']), ''] },
            COMPRESS.out.done.map { meta -> [false, idOf(meta), ''] },
            PREPROCESS.out.preprocessed.filter { _made -> comesTo('visualize', opts) }.map { meta, _record, _folders -> [true, idOf(meta + [stream: 'preprocessing']), ''] },
            VISUALIZE.out.page.map { meta, _page -> [false, idOf(meta + [stream: 'preprocessing']), ''] },
            drifting.map { meta, _folder -> [true, idOf(meta + [stream: "drift ${meta.unit}".toString()]), ''] },
            DRIFT.out.drift.map { meta, _drift -> [false, idOf(meta + [stream: "drift ${meta.unit}".toString()]), ''] },
            REFUSE.out.never.map { meta -> [false, idOf(meta), ''] }
        )
        .toList()
        .map { outcomes ->
            if (!outcomes) {
                error("--only ${opts.only}: the chosen sessions have no such probe")
            }
            def got = outcomes.findAll { outcome -> !outcome[0] }.collect { outcome -> outcome[1] }
            def missing = outcomes.findAll { outcome -> outcome[0] && !(outcome[1] in got) }
            groovy.json.JsonOutput.toJson(explainedFailures(missing.collect { _wanted, id, joined -> [id[0], id[1], id[2], joined] }))
        }
    // What other runs left in the results folder, and for --only, earlier ones of the same sessions.
    earlier = sessions
        .map { session -> session[0] }
        .toList()
        .combine(failures)
        .map { parts -> earlierResults(parts.dropRight(1), opts) }
    REPORT(
        EXPORT.out.summary.map { _meta, summary -> summary }.toSortedList { summary -> summary.text },
        INSPECT.out.inspect
            .map { _meta, documents -> documents.find { document -> document.name == 'inventory.json' } }
            .mix(earlier.flatMap { left -> left.inventories })
            .toSortedList { inventory -> inventory.text },
        EXPORT.out.agreement.mix(earlier.flatMap { left -> left.agreements }).toSortedList { agreement -> agreement.text },
        SYNC.out.residuals.toSortedList { residuals -> residuals.text },
        NWB.out.notes.map { _meta, notes -> notes }.toSortedList { notes -> notes.text },
        earlier.map { left -> left.rows },
        failures,
        arrived
            .filter { _meta -> opts.stop_after }
            .map { meta -> meta + [stage: opts.stop_after.toUpperCase()] }
            .toSortedList { stopped -> stopped.toString() }
            .map { stopped -> groovy.json.JsonOutput.toJson(stopped) },
        codeDigest('pp_report.py')
    )

    versions = INSPECT.out.versions.mix(
        EDGES.out.versions, SYNC.out.versions, EVENTS.out.versions, COMPRESS.out.versions, RAW_QC.out.versions,
        HISTOLOGY.out.versions, PREPROCESS.out.versions, VISUALIZE.out.versions, DRIFT.out.versions, SORT.out.versions, ANALYZE.out.versions, LABEL.out.versions, EXPORT.out.versions, NWB.out.versions, REPORT.out.versions
    )

    // Every published file with its hash, and what made it. Copies of raw data have manifests of their own, so that
    // they are not read again where anything else changes.
    made = INSPECT.out.inspect.map { meta, documents -> madeBy('INSPECT', meta, documents[0].parent) }
        .mix(
            EDGES.out.edges.map { meta, edges -> madeBy('EDGES', meta, edges.resolveSibling('ibl')) },
            SYNC.out.sync.map { meta, sync -> madeBy('SYNC', meta, sync.parent) },
            EVENTS.out.alf.map { meta, files -> madeBy('EVENTS', meta, folderNamed('alf', files)) },
            RAW_QC.out.raw_qc.map { meta, files -> madeBy('RAW_QC', meta, folderNamed('raw_qc', files)) },
            HISTOLOGY.out.picks.map { meta, files -> madeBy('HISTOLOGY', meta, folderNamed('histology', files)) },
            PREPROCESS.out.preprocessed.map { meta, record, _folders -> madeBy('PREPROCESS', meta, record.parent) },
            VISUALIZE.out.page.map { meta, folder -> madeBy('VISUALIZE', meta, folder) },
            DRIFT.out.drift.map { meta, folder -> madeBy('DRIFT', meta, folder) },
            SORT.out.sorting.map { meta, folder -> madeBy('SORT', meta, folder) },
            ANALYZE.out.analysis.map { meta, folder -> madeBy('ANALYZE', meta, folder) },
            LABEL.out.labels.map { meta, folder -> madeBy('LABEL', meta, folder) },
            EXPORT.out.summary.map { meta, summary -> madeBy('EXPORT', meta, summary.parent) },
            NWB.out.notes.map { meta, notes -> madeBy('NWB', meta, notes.parent) },
            COMPRESS.out.copies.map { meta, files -> madeBy('COMPRESS', meta, folderNamed('compressed', files)) }
        )
        .groupTuple()
    read = probes
        // Both bands of a probe may share files.
        .map { meta, document, files, _is_reference, lf_files -> [madeBy('', meta, '')[0], [document, (files + lf_files).toUnique { path -> path.toString() }]] }
        .mix(daqs.map { meta, document, files, _is_reference -> [madeBy('', meta, '')[0], [document, files]] })
    named = versions.map { process, file -> [process.tokenize(':').last(), file.text] }.unique().toSortedList { entry -> entry.toString() }
    everything = named.map { entries -> recordOf(opts, parametersOf(opts).keySet(), entries) }
    compressing = named.map { entries -> recordOf(opts, ['compress'], entries.findAll { entry -> entry[0] == 'COMPRESS' }) }
    rows = sessions
        .map { meta, _raw, _wanted, _print, joined, _histology -> [(sessionOf(meta)): givenIn(joined)] }
        .toList()
        .map { rows -> rows.collectEntries() }
    MANIFEST(
        made
            .join(read, remainder: true)
            .filter { _key, parts, _raw -> parts }
            .combine(everything)
            .combine(compressing)
            .combine(rows)
            .map { key, parts, raw, complete, compression, given -> manifestOf(key, parts, raw, key.stream ? compression : complete, key.stream ? [:] : given[sessionOf(key)] ?: [:]) },
        codeDigest('pp_manifest.py')
    )

    // A page for each session, of the same folders; for what sessions share there is none.
    SESSION_REPORT(
        made
            .filter { key, _parts -> !key.stream }
            .map { key, parts -> [key.subMap(['subject', 'session']), parts.collect { part -> part + [probe: key.probe] }] }
            .groupTuple()
            .map { meta, parts -> [meta, parts.collectMany { own -> own }] }
            .filter { _meta, parts -> parts.any { part -> part.stage == 'INSPECT' } }
            .combine(everything)
            .map { meta, parts, record -> pageOf(meta, parts, record) },
        codeDigest('pp_session_report.py')
    )

    emit:
    versions // channel: [ val(process), path(versions.json) ]
}

// Whether the run comes to a stage: the order is that of the README's table.
def comesTo(stage, opts) {
    def order = ['inspect', 'compress', 'sync', 'raw_qc', 'preprocess', 'visualize', 'drift', 'sort', 'analyze', 'label']
    return !opts.stop_after || stage in order.take(order.indexOf(opts.stop_after) + 1)
}

// What to do with a session, from what INSPECT found in it. All values plain, so that they hash the same
// in every run. What is the whole session's (its clock, tracings) does not depend on which probes --only chooses.
def readInspection(meta, raw, wanted, only, documents, reference_clock) {
    def document = documents.collectEntries { file -> [file.name, file] }
    def seen = new groovy.json.JsonSlurper().parse(document['probes.json'])
    // Where there are probes each says for itself why it can't be used.
    if (seen.session_blocked && !seen.probes) {
        return [probes: [], clocks: [], daqs: [], streams: [], shanks: [], refused: [[meta + [probe: ''], seen.session_blocked.toString()]]]
    }
    def names = seen.probes.collect { probe -> probe.probe.toString() }
    def clocks = seen.daqs.collect { daq -> daq.stream.toString() } + names
    if (reference_clock != 'auto' && !(reference_clock in clocks)) {
        def reason = "--reference_clock asks for ${reference_clock}; the recording has ${clocks.join(', ') ?: 'no stream'}".toString()
        return [probes: [], clocks: [], daqs: [], streams: [], shanks: [], refused: [[meta + [probe: ''], reason]]]
    }
    def absent = wanted
        .findAll { name -> !(name in names) && takes(only, name) }
        .collect { name -> [meta + [probe: name], "the samplesheet asks for ${name}; the recording has ${names.join(', ') ?: 'no probe'}".toString()] }
    absent = absent + only.exact
        .findAll { name -> !(name in names + wanted) }
        .collect { name -> [meta + [probe: name], "--only asks for ${name}; the recording has ${names.join(', ') ?: 'no probe'}".toString()] }
    def chosen = seen.probes.findAll { probe -> !wanted || probe.probe in wanted }
    def blocked = chosen.findAll { probe -> probe.blocked && takes(only, probe.probe) }.collect { probe -> [meta + [probe: probe.probe.toString()], probe.blocked.toString()] }
    def sound = chosen.findAll { probe -> !probe.blocked }
    // Without a NIDQ the first probe's clock is the session's.
    def reference = reference_clock != 'auto' ? reference_clock : seen.reference ?: sound*.probe.find { name -> name }
    if (sound && reference in names && !(reference in sound*.probe)) {
        def reason = "the reference clock ${reference} can't be used, which every other clock is fitted to".toString()
        return [probes: [], clocks: [], daqs: [], streams: [], shanks: [], refused: absent + blocked + sound.findAll { probe -> takes(only, probe.probe) }.collect { probe -> [meta + [probe: probe.probe.toString()], reason] }]
    }
    if (!sound.any { probe -> takes(only, probe.probe) }) {
        return [probes: [], clocks: [], daqs: [], streams: [], shanks: [], refused: absent + blocked]
    }
    def all = sound.collect { probe ->
        def lf = seen.streams.find { stream -> stream.probe == probe.probe && stream.files != probe.files }
        [
            meta + [probe: probe.probe.toString()],
            oneLine(document["${probe.probe}.json".toString()]),
            probe.files.collect { name -> raw.resolve(name) },
            probe.probe == reference,
            lf ? lf.files.collect { name -> raw.resolve(name) } : [],
        ]
    }
    def probes = all.findAll { probe -> takes(only, probe[0].probe) }
    def elsewhere = all
        .findAll { probe -> probe[3] && !takes(only, probe[0].probe) }
        .collect { probe -> [probe[0], 'probe', probe[1], probe[2], true] }
    def daqs = seen.daqs.collect { daq ->
        def is_reference = daq.stream == reference
        [
            // The reference's events are the session's own.
            meta + [probe: is_reference ? '' : daq.stream.toString()],
            oneLine(document["${daq.stream}.json".toString()]),
            daq.files.collect { name -> raw.resolve(name) },
            is_reference,
        ]
    }
    def usable = probes.collect { probe -> probe[0].probe } + ['']
    def streams = seen.streams
        .findAll { stream -> stream.probe in usable }
        .collect { stream ->
            [
                meta + [probe: stream.probe.toString(), stream: stream.stream.toString()],
                oneLine(document["${stream.stream}.json".toString()]),
                stream.files.collect { name -> raw.resolve(name) },
            ]
        }
    def shanks = sound.collect { probe -> "${probe.probe}:${probe.shanks.join(',')}".toString() }
    return [probes: probes, clocks: elsewhere, daqs: daqs, streams: streams, shanks: shanks, refused: absent + blocked]
}

// Whether --only chooses a probe of a session that it chooses.
def takes(only, name) {
    return only.probes.any { pattern -> fits(name, pattern) }
}

// channel_locations*.json of a probe's alignment: the samplesheet's, else those that the alignment tool left in the
// probe's ALF folder or somebody put beside the session. A file that names no probe is of the only one.
def channelLocations(meta, histology, only, outdir) {
    def session = file("${outdir}/${folderOf(meta)}")
    def given = histology ? [histology.resolve(meta.probe)] + (only ? [histology] : []) : []
    def beside = [session.resolve("alf/${meta.probe}"), session.resolve("histology/${meta.probe}")] + (only ? [session] : [])
    return (given + beside).findResult { place -> channelLocationsAt(place) ?: null } ?: []
}

// A JSON document on one line: its text, not its file, enters the tasks, so that a probe whose document
// did not change stays cached when INSPECT ran again.
def oneLine(document) {
    return document.readLines().collect { line -> line.trim() }.join(' ')
}

// For each probe of a group of sessions [meta, key of what it is joined into]; the key knows how many join.
def joinedProbes(session, metas) {
    return metas.collect { meta ->
        def joining = metas.count { other -> other.probe == meta.probe }
        // A group of one is sorted under its own name.
        def name = joining == 1 ? meta.session : session
        [meta, groupKey([subject: meta.subject, session: name, probe: meta.probe], joining)]
    }
}

// [document, files] of recordings [session, document, files] that are sorted as one, in the sessions' order.
def joinedRecordings(recordings) {
    def sorted = recordings.toSorted { recording -> recording[0] }
    return ["{\"recordings\": [${sorted.collect { recording -> recording[1] }.join(', ')}]}".toString(), sorted.collectMany { recording -> recording[2] }]
}

def sortingUnits(meta, folders) {
    def units = [folders].flatten()
    return units.collect { folder -> [meta + [unit: folder.name, n_units: units.size()], folder] }
}

// [sorter, path of its parameter file or '']: the samplesheet's, else the run's. The run's file is of the run's sorter.
def sorterOf(row, opts) {
    def sorter = row.sorter ?: opts.sorter
    return [sorter, row.sorter_params ?: (sorter == opts.sorter ? opts.sorter_params : null) ?: '']
}

def sessionOf(meta) {
    return meta.subMap(['subject', 'session'])
}

def probeOf(meta) {
    return meta.subMap(['subject', 'session', 'probe'])
}

// What the run owes for a session: its probes' results, their raw levels, its events, its compressed streams.
def expectedOf(seen, opts) {
    def streams = opts.compress != 'none' && comesTo('compress', opts) ? seen.streams : []
    def daqs = comesTo('sync', opts) ? seen.daqs : []
    def levels = comesTo('raw_qc', opts) ? seen.probes.collect { probe -> [probe[0] + [stream: 'raw_qc']] } : []
    return (seen.probes + daqs + seen.refused + streams + levels).collect { part -> idOf(part[0]) }
}

// [rows, inventories, agreements]: what REPORT of earlier runs, and INSPECT and EXPORT of sessions that are not in this
// one, published. own: the run's sessions.
def earlierResults(own, opts) {
    def folder = file("${opts.outdir}/pipeline_info/rows")
    def found = folder.isDirectory() ? filesBelow(folder) : []
    def others = found.findAll { entry -> !([subject: entry.parent.name, session: entry.baseName] in own) }
    def records = others.collect { entry -> file("${opts.outdir}/${folderOf([subject: entry.parent.name, session: entry.baseName])}/qc") }
    return [
        rows: opts.only ? found : others,
        inventories: records.collect { place -> place.resolve('inventory.json') }.findAll { entry -> entry.exists() },
        agreements: records.collectMany { place -> place.isDirectory() ? place.listFiles().collect { probe -> probe.resolve('agreement.json') } : [] }.findAll { entry -> entry.exists() },
    ]
}

def idOf(meta) {
    return [meta.subject, meta.session, meta.probe ?: meta.stream ?: '', meta.stream ?: '']
}

// What of the user's Bombcell parameters bears on its measuring, as JSON: a changed threshold does not measure anew.
// The names are those of MEASURING in bin/powerpixels/bombcell_labels.py.
def bombcellMeasuring(path) {
    def measuring = [
        'detrendWaveform', 'nRawSpikesToExtract', 'extractRaw', 'rpv_method', 'tauR_values', 'tauC', 'tauR_reject',
        'contamination_values', 'confidence_threshold', 'computeTimeChunks', 'deltaTimeChunk', 'presenceRatioBinSize',
        'computeDrift', 'driftBinSize', 'minThreshDetectPeaksTroughs', 'normalizeSpDecay', 'spDecayLinFit',
        'computeSpatialDecay', 'computeDistanceMetrics', 'nChannelsIsoDist', 'removeDuplicateSpikes',
        'duplicateSpikeWindow_s',
    ]
    def given = path ? new groovy.json.JsonSlurper().parse(file(path)) : [:]
    // With time chunks the thresholds choose what is measured. What is no object LABEL refuses, with reasons.
    def used = !(given instanceof Map) ? [:] : given.computeTimeChunks == true ? given : given.subMap(measuring.findAll { name -> given.containsKey(name) })
    return groovy.json.JsonOutput.toJson(used)
}
