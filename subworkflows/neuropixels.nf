include { codeDigest          } from './inputs'
include { explainedFailures   } from './failures'
include { INSPECT             } from '../modules/inspect'
include { REFUSE              } from '../modules/refuse'
include { EDGES               } from '../modules/edges'
include { SYNC                } from '../modules/sync'
include { EVENTS              } from '../modules/events'
include { PREPROCESS          } from '../modules/preprocess'
include { SORT                } from '../modules/sort'
include { ANALYZE             } from '../modules/analyze'
include { LABEL               } from '../modules/label'
include { EXPORT              } from '../modules/export'
include { REPORT              } from '../modules/report'

// The way of the data: sessions → probes → sorting units, and back to probes.
workflow NEUROPIXELS {
    take:
    sessions // channel: [ val(meta), path(raw), val(probes wanted), val(fingerprint) ]
    opts     // map: the parameters as the schema types them

    main:
    def wiring = file(opts.wiring ?: "${projectDir}/assets/wiring.json")

    INSPECT(sessions.map { meta, raw, _wanted, print -> [meta, raw, print] }, codeDigest('pp_inspect.py'))

    found = sessions
        .map { meta, raw, wanted, _print -> [meta, raw, wanted] }
        .join(INSPECT.out.inspect)
        .map { meta, raw, wanted, documents -> [meta, readInspection(meta, raw, wanted, documents)] }
    probes = found.flatMap { _meta, seen -> seen.probes }             // [ val(meta), val(document), files, val(is reference) ]
    nidqs = found.flatMap { _meta, seen -> seen.nidq }                // [ val(meta), val(document), files ]
    REFUSE(found.flatMap { _meta, seen -> seen.refused })

    // Clocks. Each stream's edges are found on their own, so that a changed file costs its own stream only.
    EDGES(
        probes
            .map { meta, document, files, is_reference -> [meta, 'probe', document, files, is_reference] }
            .mix(nidqs.map { meta, document, files -> [meta, 'nidq', document, files, true] }),
        codeDigest('pp_edges.py')
    )
    reference_edges = EDGES.out.edges
        .filter { _meta, _edges, is_reference -> is_reference }
        .map { meta, edges, _is_reference -> [sessionOf(meta), edges] }
    probe_edges = EDGES.out.edges
        .filter { meta, _edges, _is_reference -> meta.probe }
        .map { meta, edges, _is_reference -> [meta, edges] }
    SYNC(
        probes
            .map { meta, document, _files, _is_reference -> [meta, document] }
            .join(probe_edges)
            .map { meta, document, edges -> [sessionOf(meta), meta, document, edges] }
            .combine(reference_edges, by: 0)
            .map { _session, meta, document, edges, reference -> [meta, document, edges, reference] },
        wiring,
        codeDigest('pp_sync.py')
    )
    EVENTS(
        nidqs.join(EDGES.out.edges.map { meta, edges, _is_reference -> [meta, edges] }),
        wiring,
        codeDigest('pp_events.py')
    )

    // Traces to units, one task for each sorting unit from SORT on.
    PREPROCESS(
        probes.map { meta, document, files, _is_reference -> [meta, document, files] },
        opts.subMap(['reference', 'local_radius_um', 'highpass_hz', 'sort_by', 'seed']),
        codeDigest('pp_preprocess.py')
    )
    units = PREPROCESS.out.preprocessed.flatMap { meta, _record, folders -> sortingUnits(meta, folders) } // [ val(meta), path(folder) ]
    SORT(
        units,
        opts.sorter_params ? file(opts.sorter_params) : [],
        opts.subMap(['sorter', 'device', 'seed']),
        codeDigest('pp_sort.py')
    )
    ANALYZE(units.join(SORT.out.sorting), opts.subMap(['seed']), codeDigest('pp_analyze.py'))
    LABEL(
        SORT.out.sorting.join(ANALYZE.out.analysis),
        opts.bombcell_params ? file(opts.bombcell_params) : [],
        codeDigest('pp_label.py')
    )

    // Gather: a probe goes on the moment its own last sorting unit is labelled.
    gathered = SORT.out.sorting
        .join(ANALYZE.out.analysis)
        .join(LABEL.out.labels)
        .join(units)
        .map { meta, sorting, analysis, labels, folder ->
            [groupKey(probeOf(meta), meta.n_units), [meta.unit, sorting, analysis, labels, folder.resolve('recording.json')]]
        }
        .groupTuple()
        // In the units' order: that of their arrival differs between runs and would change the task.
        .map { key, members -> [key.getGroupTarget()] + members.toSorted { member -> member[0] }.transpose().drop(1) }
    EXPORT(
        probes
            .map { meta, document, _files, _is_reference -> [meta, document] }
            .join(PREPROCESS.out.preprocessed.map { meta, record, _folders -> [meta, record] })
            .join(SYNC.out.sync)
            .join(gathered),
        codeDigest('pp_export.py')
    )

    // The run's table, when nothing is left to do: what was exported, and what failed instead.
    exported = EXPORT.out.summary.map { meta, summary -> [idOf(meta), summary] }
    expected = sessions
        .map { meta, _raw, _wanted, _print -> [meta] }
        .join(found, remainder: true)
        .flatMap { meta, seen -> seen ? (seen.probes + seen.nidq + seen.refused).collect { part -> idOf(part[0]) } : [idOf(meta)] }
    failures = expected
        .map { id -> [true, id] }
        .mix(
            exported.map { id, _summary -> [false, id] },
            EVENTS.out.done.map { meta -> [false, idOf(meta)] },
            REFUSE.out.never.map { meta -> [false, idOf(meta)] }
        )
        .toList()
        .map { outcomes ->
            def wanted = outcomes.findAll { outcome -> outcome[0] }.collect { outcome -> outcome[1] }
            def got = outcomes.findAll { outcome -> !outcome[0] }.collect { outcome -> outcome[1] }
            groovy.json.JsonOutput.toJson(explainedFailures(wanted - got))
        }
    REPORT(
        exported.map { _id, summary -> summary }.toSortedList { summary -> summary.text },
        failures,
        codeDigest('pp_report.py')
    )

    versions = INSPECT.out.versions.mix(
        EDGES.out.versions, SYNC.out.versions, EVENTS.out.versions, PREPROCESS.out.versions, SORT.out.versions,
        ANALYZE.out.versions, LABEL.out.versions, EXPORT.out.versions, REPORT.out.versions
    )

    emit:
    versions // channel: [ val(process), path(versions.json) ]
}

// What to do with a session, from what INSPECT found in it. All values plain, so that they hash the same
// in every run.
def readInspection(meta, raw, wanted, documents) {
    def document = documents.collectEntries { file -> [file.name, file] }
    def seen = new groovy.json.JsonSlurper().parse(document['probes.json'])
    // Where there are probes each says for itself why it can't be used.
    if (seen.session_blocked && !seen.probes) {
        return [probes: [], nidq: [], refused: [[meta + [probe: ''], seen.session_blocked.toString()]]]
    }
    def names = seen.probes.collect { probe -> probe.probe.toString() }
    def absent = wanted
        .findAll { name -> !(name in names) }
        .collect { name -> [meta + [probe: name], "the samplesheet asks for ${name}; the recording has ${names.join(', ') ?: 'no probe'}".toString()] }
    def chosen = seen.probes.findAll { probe -> !wanted || probe.probe in wanted }
    def blocked = chosen.findAll { probe -> probe.blocked }.collect { probe -> [meta + [probe: probe.probe.toString()], probe.blocked.toString()] }
    def sound = chosen.findAll { probe -> !probe.blocked }
    def probes = sound.withIndex().collect { probe, index ->
        [
            meta + [probe: probe.probe.toString()],
            oneLine(document["${probe.probe}.json".toString()]),
            probe.files.collect { name -> raw.resolve(name) },
            // Without a NIDQ the first probe's clock is the session's.
            !seen.nidq && index == 0,
        ]
    }
    def nidq = seen.nidq && sound
        ? [[meta + [probe: ''], oneLine(document['nidq.json']), seen.nidq.collect { name -> raw.resolve(name) }]]
        : []
    return [probes: probes, nidq: nidq, refused: absent + blocked]
}

// A JSON document on one line: its text, not its file, enters the tasks, so that a probe whose document
// did not change stays cached when INSPECT ran again.
def oneLine(document) {
    return document.readLines().collect { line -> line.trim() }.join(' ')
}

def sortingUnits(meta, folders) {
    def units = [folders].flatten()
    return units.collect { folder -> [meta + [unit: folder.name, n_units: units.size()], folder] }
}

def sessionOf(meta) {
    return meta.subMap(['subject', 'session'])
}

def probeOf(meta) {
    return meta.subMap(['subject', 'session', 'probe'])
}

def idOf(meta) {
    return [meta.subject, meta.session, meta.probe ?: '']
}
