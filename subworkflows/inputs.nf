// What a user hands over, checked before any work: the parameters and the samplesheet.
// Every function here either returns plain values or ends the run with one message that lists all faults.

// The parameters as nextflow_schema.json types them.
// A value from the command line can arrive as text whatever it means, hence the conversion.
def readParams(given, schema_file) {
    def schema = new groovy.json.JsonSlurper().parse(schema_file)
    def groups = schema['$defs'].values()
    def known = groups.collectMany { group -> group.properties.entrySet() as List }
    def required = groups.collectMany { group -> group.required ?: [] }
    // Nextflow itself adds the camelCase twin of a --kebab-case option; both are unknown here.
    def unknown = given.keySet().findAll { key -> !known.any { entry -> entry.key == key } }
    def typed = known.collect { entry -> readParam(entry.key, entry.value, given[entry.key], required) }
    def faults = unknown.sort().collect { key -> "--${key}: unknown parameter${nearest(key, known*.key)}".toString() }
    faults = faults + typed.findAll { result -> result.fault }.collect { result -> result.fault }
    if (faults) {
        error("The parameters have ${faults.size()} fault${faults.size() > 1 ? 's' : ''}:\n  ${faults.join('\n  ')}")
    }
    return typed.collectEntries { result -> [result.name, result.value] }
}

// One parameter: [name, value, fault]; fault is null where the value fits.
def readParam(name, spec, value, required) {
    if (value == null || value.toString() == '') {
        def missing = name in required ? "--${name}: missing (${spec.description})".toString() : null
        return [name: name, value: null, fault: missing]
    }
    def text = value.toString()
    def problem = null
    if (spec.type == 'integer' && !(text ==~ '[+-]?[0-9]+')) {
        problem = 'expected a whole number'
    }
    if (spec.type == 'number' && !text.isNumber()) {
        problem = 'expected a number'
    }
    if (spec.type == 'boolean' && !(text in ['true', 'false'])) {
        problem = 'expected true or false'
    }
    if (spec.type == 'string' && (value instanceof Boolean)) {
        problem = 'expected a value after the parameter'
    }
    if (!problem && spec['enum'] && !(text in spec['enum'])) {
        problem = "expected one of ${spec['enum'].join(', ')}"
    }
    if (!problem && spec.pattern && !(text ==~ spec.pattern)) {
        problem = "expected text like ${spec.examples ? spec.examples[0] : spec['default']}"
    }
    if (!problem && spec.minimum != null && text.toBigDecimal() < spec.minimum) {
        problem = "expected at least ${spec.minimum}"
    }
    if (!problem && spec.maximum != null && text.toBigDecimal() > spec.maximum) {
        problem = "expected at most ${spec.maximum}"
    }
    if (!problem && spec.format == 'file-path' && !file(text).isFile()) {
        problem = 'no such file'
    }
    if (!problem && spec.format == 'directory-path' && spec.exists && !file(text).isDirectory()) {
        problem = 'no such folder'
    }
    if (problem) {
        def hint = spec['enum'] ? nearest(text, spec['enum']) : ''
        return [name: name, value: null, fault: "--${name}: ${problem}, found '${text}'${hint}".toString()]
    }
    def converted = spec.type == 'integer' ? text.toLong()
        : spec.type == 'number' ? text.toBigDecimal()
        : spec.type == 'boolean' ? text.toBoolean()
        : text
    return [name: name, value: converted, fault: null]
}

// ", did you mean X?" where a known name is close to the given one, else nothing.
def nearest(given, names) {
    def plain = given.toLowerCase().replaceAll('[^a-z0-9]', '')
    def close = names.find { name -> name.replaceAll('[^a-z0-9]', '') == plain }
    close = close ?: names.min { name -> distance(plain, name.replaceAll('[^a-z0-9]', '')) }
    return distance(plain, close.replaceAll('[^a-z0-9]', '')) <= 3 ? ", did you mean ${close}?" : ''
}

// Levenshtein distance of two texts.
def distance(a, b) {
    def first = (0..b.size()) as List
    def last = (a as List).inject(first) { row, letter ->
        (b as List).withIndex().inject([row[0] + 1]) { next, pair ->
            def (other, j) = pair
            next + [[next[j] + 1, row[j + 1] + 1, row[j] + (letter == other ? 0 : 1)].min()]
        }
    }
    return last.last()
}

// The samplesheet's sessions: a list of [meta, raw folder, wanted probes (empty: all), fingerprint, joined, histology].
// meta has subject and session (YYYY-MM-DD_NNN); the schema is assets/schema_input.json. joined has the session under
// whose name its probes are sorted (its own, or concatenated_NAME), how many sessions are, which of its probes --only
// chooses, and the row's own sorter, sorter_params and metadata (the files' paths), '' where it has none. histology is
// null or [file or folder of tracings, its fingerprint].
// only: the text of --only, or null. Sessions that it leaves out are not in the list.
def readSamplesheet(sheet_path, schema_file, only) {
    def sheet = file(sheet_path)
    def schema = new groovy.json.JsonSlurper().parse(schema_file).items
    def known = schema.properties.keySet() as List
    // Spreadsheet programs put an invisible mark before the first column's name.
    def lines = sheet.getText('UTF-8').replace('\uFEFF', '').readLines()
    def header = lines ? splitRow(lines[0]) : []
    def faults = []
    def unknown = header.findAll { column -> !(column in known) }
    def absent = schema.required.findAll { column -> !(column in header) }
    def repeated = header.countBy { column -> column }.findAll { entry -> entry.value > 1 }.keySet()
    if (!header.any { column -> column }) {
        faults << "it is empty: expected a first line with the columns ${known.join(', ')}"
    }
    else if (header.size() == 1 && header[0] =~ '[;\t]') {
        faults << "row 1: the columns are separated by '${header[0].contains(';') ? ';' : 'tabs'}': expected commas"
    }
    else {
        unknown.each { column ->
            faults << "row 1: unknown column '${column}': known are ${known.join(', ')}"
        }
        absent.each { column -> faults << "row 1: column '${column}' is missing" }
        repeated.each { column -> faults << "row 1: column '${column}' stands there more than once" }
    }
    if (faults) {
        sheetError(sheet, faults)
    }

    def rows = lines.withIndex()
        .findAll { pair -> pair[1] > 0 && pair[0].replace(',', '').trim() }
        .collect { pair -> readRow(pair[0], pair[1] + 1, header, schema, sheet.parent) }
    if (!rows) {
        sheetError(sheet, ['it has no rows: expected one for each session below the header'])
    }
    faults = rows.collectMany { row -> row.faults }
    def sound = rows.findAll { row -> !row.faults }
    sound.groupBy { row -> [row.meta.subject, row.meta.session] }.findAll { entry -> entry.value.size() > 1 }.each { entry ->
        faults << "rows ${entry.value*.number.join(', ')}, column 'session': ${entry.key[0]} has session ${entry.key[1]} more than once: number the sessions of a day, ${entry.key[1][0..9]}_001, ${entry.key[1][0..9]}_002"
    }
    sound.groupBy { row -> row.raw.toRealPath().toString() }.findAll { entry -> entry.value.size() > 1 }.each { entry ->
        faults << "rows ${entry.value*.number.join(', ')}, column 'raw': the same folder stands there more than once: ${entry.key}"
    }
    sound.findAll { row -> row.concatenate }.groupBy { row -> [row.meta.subject, row.concatenate] }.findAll { entry -> entry.value.collect { row -> row.sorting }.unique().size() > 1 }.each { entry ->
        faults << "rows ${entry.value*.number.join(', ')}, columns 'sorter', 'sorter_params': ${entry.key[0]}'s sessions ${entry.key[1]} are to be sorted as one, with different sorters or parameters: give each of these rows the same"
    }
    if (faults) {
        sheetError(sheet, faults)
    }
    return chosenRows(sound, only).collect { row ->
        def size = row.concatenate ? sound.count { other -> other.meta.subject == row.meta.subject && other.concatenate == row.concatenate } : 1
        [row.meta, row.raw, row.probes, fingerprint(row.raw), [session: size > 1 ? "concatenated_${row.concatenate}".toString() : row.meta.session, size: size, only: row.only, metadata: row.metadata] + row.sorting, row.histology ? [row.histology, fingerprint(row.histology)] : null]
    }
}

// The rows that --only chooses, each with `only`: the patterns of its probes, of which one is '*' where it takes all
// that the samplesheet does, and exact, the names of probes in a choice without wildcards.
def chosenRows(rows, only) {
    def choices = (only ?: '*').tokenize(',').collect { text -> readChoice(text.trim()) }
    def faults = choices.collect { choice -> choiceFault(choice, rows) }.findAll { fault -> fault }
    def marked = rows.collect { row ->
        def mine = choices.findAll { choice -> chooses(choice, row) }
        row + [only: [probes: mine.collect { choice -> choice.probe }.unique().sort(), exact: mine.findAll { choice -> !(choice.text =~ '[*?]') && choice.probe != '*' }.collect { choice -> choice.probe }]]
    }
    marked.findAll { row -> row.concatenate }.groupBy { row -> [row.meta.subject, row.concatenate] }.findAll { entry -> entry.value.collect { row -> row.only.probes }.unique().size() > 1 }.each { entry ->
        faults << "${entry.key[0]}'s sessions ${entry.key[1]} are sorted as one: choose all of them with the same probes, ${entry.value.collect { row -> "${row.meta.subject}/${row.meta.session}" }.join(',')}".toString()
    }
    if (faults) {
        error("--only has ${faults.size()} fault${faults.size() > 1 ? 's' : ''}:\n  ${faults.join('\n  ')}")
    }
    return marked.findAll { row -> row.only.probes }
}

// A choice, subject[/session[/probe]]: a day without a number stands for all sessions of that day.
def readChoice(text) {
    def parts = text.split('/') as List
    def session = parts.size() > 1 ? parts[1] : '*'
    return [text: text, subject: parts[0], session: isDay(session) ? "${session}_*".toString() : session, probe: parts.size() > 2 ? parts[2] : '*']
}

def isDay(text) {
    return text ==~ '\\d{4}-\\d{2}-\\d{2}'
}

def chooses(choice, row) {
    return fits(row.meta.subject, choice.subject) && fits(row.meta.session, choice.session)
}

// Whether a name fits a pattern with * and ?.
def fits(name, pattern) {
    return name ==~ pattern.collect { letter -> letter == '*' ? '.*' : letter == '?' ? '.' : java.util.regex.Pattern.quote(letter) }.join('')
}

// Why a choice chooses nothing, null where it does. Probes of a row that names none are known after INSPECT.
def choiceFault(choice, rows) {
    def own = rows.findAll { row -> fits(row.meta.subject, choice.subject) }
    def chosen = own.findAll { row -> chooses(choice, row) }
    def named = chosen.collectMany { row -> row.probes }.unique()
    if (!own) {
        return "${choice.text}: no such subject in the samplesheet${likely(choice.subject, rows.collect { row -> row.meta.subject })}".toString()
    }
    if (!chosen) {
        return "${choice.text}: no such session of ${choice.subject} in the samplesheet${likely(choice.session - '_*', own.collect { row -> choice.session.endsWith('_*') ? row.meta.session[0..9] : row.meta.session })}".toString()
    }
    if (chosen.every { row -> row.probes } && !named.any { name -> fits(name, choice.probe) }) {
        return "${choice.text}: no such probe in the samplesheet's column probes${likely(choice.probe, named)}".toString()
    }
    return null
}

// ", did you mean X?", or the first of the known names where none is close.
def likely(given, names) {
    return nearest(given, names) ?: ": it has ${names.unique(false).sort().take(8).join(', ')}${names.unique(false).size() > 8 ? ', ...' : ''}".toString()
}

def sheetError(sheet, faults) {
    error("The samplesheet ${sheet} has ${faults.size()} fault${faults.size() > 1 ? 's' : ''}:\n  ${faults.join('\n  ')}")
}

// The fields of one line of a CSV file; a field in double quotes may hold commas.
def splitRow(line) {
    def fields = line.split(',(?=(?:[^"]*"[^"]*")*[^"]*$)', -1) as List
    return fields.collect { field ->
        def bare = field.trim()
        bare.size() > 1 && bare.startsWith('"') && bare.endsWith('"') ? bare[1..-2].replace('""', '"').trim() : bare
    }
}

// One row: [number (of its line), faults, meta, raw, probes, concatenate, histology, metadata, sorting].
def readRow(line, number, header, schema, folder) {
    def fields = splitRow(line)
    if (fields.size() != header.size()) {
        return [number: number, faults: ["row ${number}: expected ${header.size()} fields as in the header, found ${fields.size()}".toString()]]
    }
    def values = [header, fields].transpose().collectEntries { pair -> [pair[0], pair[1]] }
    def checked = schema.properties.keySet().collectMany { column ->
        def spec = schema.properties[column]
        def value = values[column] ?: ''
        def problem = null
        if (!value) {
            problem = column in schema.required ? "expected a value, found none (${spec.errorMessage})" : null
        }
        else if (spec.pattern && !(value ==~ spec.pattern)) {
            problem = "${spec.errorMessage}; found '${value}'"
        }
        else if (spec.format == 'directory-path' && spec.exists && !folder.resolve(value).isDirectory()) {
            def found = folder.resolve(value).exists() ? 'a file' : 'nothing'
            problem = "${spec.errorMessage}; found ${found} at ${folder.resolve(value).normalize()}"
        }
        else if (spec.format == 'path' && !folder.resolve(value).exists()) {
            problem = "${spec.errorMessage}; found nothing at ${folder.resolve(value).normalize()}"
        }
        problem ? ["row ${number}, column '${column}': ${problem}".toString()] : []
    }
    if (checked) {
        return [number: number, faults: checked]
    }
    def raw = folder.resolve(values.raw).normalize()
    def date = values.session ?: recordingDate(raw)
    def session = date && date.size() == 10 ? "${date}_001".toString() : date
    if (!session) {
        return [number: number, faults: ["row ${number}, column 'session': it is empty and no file in ${raw} tells the recording's date: give it as YYYY-MM-DD".toString()]]
    }
    if (!isDate(session[0..9])) {
        return [number: number, faults: ["row ${number}, column 'session': ${session[0..9]} is no day of the calendar".toString()]]
    }
    def meta = [subject: values.subject, session: session]
    def wanted = (values.probes ?: '').tokenize(' ;')
    def sorting = [sorter: values.sorter ?: '', sorter_params: values.sorter_params ? folder.resolve(values.sorter_params).normalize().toString() : '']
    return [number: number, faults: [], meta: meta, raw: raw, probes: wanted, concatenate: values.concatenate ?: '', histology: values.histology ? folder.resolve(values.histology).normalize() : null, metadata: values.metadata ? folder.resolve(values.metadata).normalize().toString() : '', sorting: sorting]
}

def isDate(text) {
    try {
        return java.time.LocalDate.parse(text) != null
    }
    catch (java.time.format.DateTimeParseException _e) {
        return false
    }
}

// All regular files below a folder, in a fixed order.
def filesBelow(folder) {
    def found = []
    folder.eachFileRecurse { entry -> found << entry }
    return found.findAll { entry -> entry.isFile() }.sort { entry -> entry.toString() }
}

// Of a probe's alignment in a folder, or at a path: one file, or one of each shank.
def channelLocationsAt(place) {
    def entries = place.isDirectory() ? place.listFiles() as List : place.exists() ? [place] : []
    return entries.findAll { entry -> entry.name ==~ 'channel_locations(_shank\\d+)?[.]json' }.toSorted { entry -> entry.name }
}

// YYYY-MM-DD of the earliest stream below the folder, null where there is none.
def recordingDate(raw) {
    def dates = filesBelow(raw).collect { entry -> headerDate(entry) }.findAll { date -> date }
    return dates ? dates.min() : null
}

// YYYY-MM-DD that a SpikeGLX header or an Open Ephys settings file states, null for any other file.
def headerDate(entry) {
    if (entry.name.endsWith('.meta')) {
        def lines = entry.getText('ISO-8859-1').readLines()
        // CatGT keeps the recording's own time under another key.
        def stated = ['fileCreateTime_original=', 'fileCreateTime='].findResult { key -> lines.find { line -> line.startsWith(key) } }
        def day = stated ? stated.split('=', 2)[1] : ''
        return day =~ '^\\d{4}-\\d{2}-\\d{2}' ? day[0..9] : null
    }
    if (entry.name ==~ 'settings(_\\d+)?[.]xml') {
        def stated = entry.getText('UTF-8') =~ '<DATE>\\s*(\\d{1,2} \\w{3} \\d{4}) '
        return stated ? java.time.LocalDate.parse(stated[0][1], java.time.format.DateTimeFormatter.ofPattern('d MMM yyyy', java.util.Locale.ENGLISH)).toString() : null
    }
    return null
}

// Changes when the file, or a file below the folder, is added, removed or rewritten. A folder's own date does not.
def fingerprint(folder) {
    def files = folder.isDirectory() ? filesBelow(folder) : [folder]
    return files
        .collect { entry -> "${folder.relativize(entry)} ${entry.size()} ${entry.lastModified()}" }
        .join('\n')
        .md5()
}

// Changes when the executable or a module of the package that it imports, directly or through others, does.
// Nextflow itself notices neither: it hashes a file of bin/ only, not what that file imports.
def codeDigest(executable) {
    def bin = file("${projectDir}/bin")
    def sources = importedSources(bin, [bin.resolve(executable)], [])
    return sources.sort { source -> source.toString() }.collect { source -> source.text }.join('\n').md5()
}

// The files of `pending` and the package modules they import, recursively, as one list without repeats.
def importedSources(bin, pending, seen) {
    def fresh = pending.findAll { source -> !(source in seen) && source.exists() }.unique()
    if (!fresh) {
        return seen
    }
    def imported = fresh.collectMany { source ->
        source.readLines().collectMany { line ->
            def one = line =~ '^\\s*from powerpixels\\.(\\w+) import'
            def several = line =~ '^\\s*from powerpixels import ([\\w, ]+)'
            one ? [one[0][1]] : several ? several[0][1].split(',').collect { name -> name.trim().tokenize(' ')[0] } : []
        }
    }
    def modules = (imported + ['__init__']).collect { name -> bin.resolve("powerpixels/${name}.py") }
    return importedSources(bin, modules, seen + fresh)
}
