// What the manifests are made of: the tasks' own folders, and what made them.

// [key, part]: a folder that a stage made of a session, of one of its probes or streams.
def madeBy(stage, meta, folder) {
    return [[subject: meta.subject, session: meta.session, probe: meta.probe ?: '', stream: stage == 'COMPRESS' ? meta.stream : ''], [stage: stage, unit: meta.unit ?: '', folder: folder]]
}

// The folder of a task's that an output lies in, at any depth.
def folderNamed(name, files) {
    def first = ([files].flatten()[0]).toString()
    return file(first.substring(0, first.lastIndexOf("/${name}/") + name.size() + 1))
}

// A manifest's task: [meta, head as JSON, folders, raw files]. raw: [documents, files] of the streams that were read.
// given: what the session's row of the samplesheet says of its results.
def manifestOf(key, parts, raw, record, given) {
    def meta = key.findAll { entry -> entry.key != 'stream' || entry.value }
    // In an order of their own: that of their arrival differs between runs and would change the task.
    def sorted = parts.toSorted { part -> "${part.stage} ${part.unit} ${part.folder}".toString() }
    def told = groovy.json.JsonOutput.toJson(key.subMap(['subject', 'session', 'probe']) + [parts: sorted.collect { part -> part.subMap(['stage', 'unit']) }])
    def head = "${told[0..-2]}, \"documents\": [${raw ? raw[0] : ''}], \"record\": ${record[0..-2]}, \"samplesheet\": ${groovy.json.JsonOutput.toJson(given)}}}".toString()
    return [meta, head, sorted.collect { part -> part.folder }, raw ? raw[1] : []]
}

// A session's page: [meta, head as JSON, folders]. parts: those of all its probes, each with its probe. The sorter's
// folder, the analyzer, the NWB and copies of raw data are not on the page.
def pageOf(meta, parts, record) {
    def shown = parts.findAll { part -> !(part.stage in ['SORT', 'ANALYZE', 'NWB', 'COMPRESS']) }
    def sorted = shown.toSorted { part -> "${part.probe} ${part.stage} ${part.unit} ${part.folder}".toString() }
    def head = "{\"parts\": ${groovy.json.JsonOutput.toJson(sorted.collect { part -> part.subMap(['stage', 'unit', 'probe']) })}, \"record\": ${record}}".toString()
    return [meta, head, sorted.collect { part -> part.folder }]
}

// What made a run's files, as JSON. versions: [process, text of its versions.json] of the processes.
def recordOf(opts, names, versions) {
    def software = versions.groupBy { entry -> entry[0] }.collectEntries { process, entries -> [process, entries.collect { entry -> new groovy.json.JsonSlurper().parseText(entry[1]) }] }
    return groovy.json.JsonOutput.toJson([parameters: parametersOf(opts).subMap(names), software: software.sort(), containers: imagesOf(opts)])
}

// The parameters that bear on results; of files the name and what they hold, never where they lie.
def parametersOf(opts) {
    def elsewhere = ['input', 'outdir', 'only', 'skip_finished', 'stop_after', 'publish_dir_mode', 'container', 'sorter_image', 'scratch', 'checkpoint_dir', 'device']
    def files = ['wiring', 'metadata', 'sorter_params', 'bombcell_params', 'ibl_params', 'unitrefine_models']
    return opts
        .findAll { entry -> !(entry.key in elsewhere) && !(entry.key =~ '^(help|custom_config_|config_profile_|max_|igenomes_)') }
        .collectEntries { name, value ->
            if (!(name in files) || value == null) {
                return [name, value]
            }
            return [name, identityOf(value)]
        }
        .sort()
}

// A file by its name and what it holds, never by where it lies; a folder of models by its list of hashes.
def identityOf(path) {
    def given = file(path)
    def content = given.isDirectory() ? given.resolve('models.json') : given
    return [name: given.name] + (content.exists() ? [sha256: content.bytes.digest('SHA-256')] : [:])
}

// What a session's row of the samplesheet gives beside the run's parameters.
def givenIn(row) {
    def files = [sorter_params: row.sorter_params, metadata: row.metadata].findAll { entry -> entry.value }
    return (row.sorter ? [sorter: row.sorter] : [:]) + files.collectEntries { name, path -> [name, identityOf(path)] }
}

// The images that tasks ran in, each with the digest that `make images` left beside it.
def imagesOf(opts) {
    def cpu = opts.container ?: "${projectDir}/containers/powerpixels-cpu.sif"
    def gpu = opts.sorter_image ?: opts.container ?: "${projectDir}/containers/powerpixels-gpu.sif"
    def images = workflow.containerEngine ? [cpu, gpu].collect { image -> image.toString() }.unique() : []
    return images.collectEntries { image ->
        def digest = file("${image}.sha256")
        [file(image).name, digest.exists() ? "sha256 ${digest.text.tokenize()[0]}".toString() : 'digest not known']
    }
}
