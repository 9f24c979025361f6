// What `nextflow run . --help` and `--help_all` print, from nextflow_schema.json.

// All groups with their parameters that are not hidden: a line each, or, with details, all that the schema says.
def helpText(schema_file, details) {
    def schema = new groovy.json.JsonSlurper().parse(schema_file)
    def groups = schema['$defs'].values()
        .collect { group -> [group.title, group.properties.findAll { entry -> !entry.value.hidden }, group.required ?: []] }
        .findAll { group -> group[1] }
    def width = groups.collectMany { group -> group[1].keySet() as List }.collect { name -> name.size() }.max() + 4
    def parts = groups.collect { title, properties, required ->
        "${title}\n" + properties.collect { name, spec -> helpLine(name, spec, name in required, width, details) }.join('\n')
    }
    def more = details ? '' : "\n\nA parameter's choices, limits and explanation: --help_all, or docs/parameters.md"
    return "${schema.description}\n\nnextflow run . -profile PROFILE[,apptainer] --input samplesheet.csv --outdir results -resume\n\n${parts.join('\n\n')}${more}\n".toString()
}

// One parameter. Lines are no wider than 110 characters.
def helpLine(name, spec, required, width, details) {
    def given = spec['default'] != null ? " [${spec['default']}]" : required ? ' [required]' : ''
    def room = 110 - width - 2
    if (!details) {
        return "  ${"--${name}".padRight(width)}${shortened(spec.description, room - given.size())}${given}".toString()
    }
    def about = [spec.description + given, spec.help_text]
    about << (spec['enum'] ? "one of ${spec['enum'].join(', ')}" : null)
    about << (spec.minimum != null ? "at least ${spec.minimum}" : null)
    about << (spec.maximum != null ? "at most ${spec.maximum}" : null)
    def lines = about.findAll { text -> text }.collectMany { text -> wrapped(text.toString(), room) }
    return "  ${"--${name}".padRight(width)}${lines.join('\n' + ' ' * (width + 2))}".toString()
}

// The text, cut at a word's end where it is longer than the room for it.
def shortened(text, room) {
    return text.size() <= room ? text : wrapped(text, room - 2)[0].replaceAll('[,;:]$', '') + ' …'
}

// The text in lines of at most so many characters; a word that is longer has its own.
def wrapped(text, room) {
    return text.tokenize(' ').inject(['']) { lines, word ->
        def longer = lines.last() ? "${lines.last()} ${word}".toString() : word
        longer.size() <= room || !lines.last() ? lines.init() + longer : lines + word
    }
}
