// --skip_finished: sessions that an earlier run into the results folder finished are left out before a task is made of
// them. Nextflow's own memory of them (the work folder) is not needed for that. What a session was made of is a digest in
// pipeline_info/finished/<subject>/<session>, written when the run ends and its results are whole.

include { channelLocationsAt ; filesBelow ; fingerprint } from './inputs'
include { givenIn ; imagesOf ; parametersOf } from './manifest'
include { folderOf                          } from '../modules/resources'

// The rows of the samplesheet (readSamplesheet's), each as [row, digest of all that its results depend on].
def withDigests(rows, opts) {
    def models = opts.unitrefine_models ? fingerprint(file(opts.unitrefine_models)) : ''
    def common = [parametersOf(opts), opts.device, imagesOf(opts), models, pipelineDigest()]
    return rows.collect { row ->
        def (meta, raw, wanted, print, joined, histology) = row
        def own = [meta, raw, wanted, print, joined.session, joined.size, joined.only.probes, givenIn(joined), histology, alignmentsIn(file("${opts.outdir}/${folderOf(meta)}"))]
        [row, "${common} ${own}".toString().md5()]
    }
}

// What the alignment tool, or somebody, left in the results of a session, as channelLocations finds it.
def alignmentsIn(session) {
    def below = ['alf', 'histology'].collect { name -> session.resolve(name) }.findAll { folder -> folder.isDirectory() }
    def places = [session] + below.collectMany { folder -> folder.listFiles().findAll { entry -> entry.isDirectory() } }
    return places
        .collectMany { place -> channelLocationsAt(place) }
        .collect { path -> "${path} ${path.size()} ${path.lastModified()}".toString() }
        .sort()
}

// Those of the sessions whose results are not there, or were made of something else. Sessions that are sorted as one
// are finished together.
def unfinished(digested, opts) {
    def begun = digested
        .findAll { row, digest -> !isFinished(row, digest, opts) }
        .collect { row, _digest -> groupOf(row) }
        .toSet()
    return digested.findAll { row, _digest -> groupOf(row) in begun }
}

def groupOf(row) {
    return [row[0].subject, row[4].session]
}

def isFinished(row, digest, opts) {
    def kept = digestOf(row[0], opts)
    return kept.exists() && kept.text.trim() == digest && isWhole(row, opts)
}

// A session that is begun anew is not finished any more, whatever becomes of the run.
def forgetFinished(rows, opts) {
    rows.each { row -> digestOf(row[0], opts).delete() }
}

// Called when a run has ended: keeps the digests of the sessions that are whole, in which nothing failed.
// failures: failedTasks().
def keepFinished(digested, failures, opts) {
    def failed = failures.collect { failure -> [failure.subject, failure.session] }.toSet()
    digested
        .findAll { row, _digest -> !([row[0].subject, row[0].session] in failed) && !(groupOf(row) in failed) && isWhole(row, opts) }
        .each { row, digest ->
            def kept = digestOf(row[0], opts)
            kept.parent.mkdirs()
            kept.text = "${digest}\n"
        }
}

def digestOf(meta, opts) {
    return file("${opts.outdir}/pipeline_info/finished/${meta.subject}/${meta.session}")
}

// Whether every probe of a session is done, and all that its manifests name lies in the results folder, in its size.
def isWhole(row, opts) {
    def (meta, _raw, _wanted, _print, joined, _histology) = row
    def rows = file("${opts.outdir}/pipeline_info/rows/${meta.subject}/${meta.session}.json")
    def probes = rows.exists() ? new groovy.json.JsonSlurper().parse(rows) : []
    def session = file("${opts.outdir}/${folderOf(meta)}")
    def shared = file("${opts.outdir}/${folderOf(meta + [session: joined.session])}")
    def named = [''] + probes.collect { probe -> probe.probe ?: '' }
    return probes && probes.every { probe -> probe.status == 'done' } &&
        named.every { probe -> session.resolve("qc/${probe}/manifest.json").exists() } &&
        [session, shared].unique().every { folder -> manifestsIn(folder).every { manifest -> allThere(manifest, folder) } }
}

def manifestsIn(folder) {
    def qc = folder.resolve('qc')
    def places = qc.isDirectory() ? [qc] + qc.listFiles().findAll { entry -> entry.isDirectory() } : []
    return places.collectMany { place -> place.listFiles().findAll { entry -> entry.name ==~ 'manifest(_.+)?[.]json' } }
}

def allThere(manifest, folder) {
    def files = new groovy.json.JsonSlurper().parse(manifest).files ?: []
    return files.every { stated ->
        def found = folder.resolve(stated.path)
        found.exists() && found.size() == stated.size_bytes
    }
}

// Changes with any line of the pipeline, its package or its assets.
def pipelineDigest() {
    def parts = ['main.nf', 'requirements.lock', 'assets', 'bin', 'modules', 'subworkflows'].collect { name -> file("${projectDir}/${name}") }
    def sources = parts.findAll { part -> part.exists() }.collectMany { part -> part.isDirectory() ? filesBelow(part) : [part] }
    return sources
        .findAll { source -> source.name ==~ '.+[.](nf|py|json|lock)' }
        .collect { source -> "${source.name} ${source.bytes.md5()}" }
        .join('\n')
        .md5()
}
