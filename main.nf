#!/usr/bin/env nextflow
// Power Pixels: raw Neuropixels recordings to sorted, labelled, synchronised units.

include { helpText                     } from './subworkflows/help'
include { readParams ; readSamplesheet } from './subworkflows/inputs'
include { failedTasks ; failureLine    } from './subworkflows/failures'
include { imagesOf                     } from './subworkflows/manifest'
include { recordStart ; recordEnd      } from './subworkflows/record'
include { stopOrphans                  } from './subworkflows/orphans'
include { forgetFinished ; keepFinished ; unfinished ; withDigests } from './subworkflows/finished'
include { NEUROPIXELS                  } from './subworkflows/neuropixels'

workflow {
    main:
    def schema = file("${projectDir}/nextflow_schema.json")
    if (params.help || params.help_all) {
        println(helpText(schema, params.help_all))
        exit(0)
    }
    def opts = readParams(params, schema)
    if (opts.sorter_image && !workflow.containerEngine) {
        error("--sorter_image: tasks run in images only with a profile that says so, such as -profile apptainer")
    }
    if (opts.scratch && !nextflow.version.matches('>=25.04.0')) {
        error("--scratch needs Nextflow 25.04 or newer, this is ${nextflow.version}: older ones take a task for done whose results could not be copied back whole")
    }
    // A container can only bind a folder that is there.
    if (opts.checkpoint_dir) {
        file(opts.checkpoint_dir).mkdirs()
    }
    // [ [subject: 'mouse01', session: '2026-03-01_001'], /data/mouse01/run1_g0, [], 'd41d8c…' ]
    def chosen = withDigests(readSamplesheet(opts.input, file("${projectDir}/assets/schema_input.json"), opts.only), opts)
    stopOrphans()
    def begun = opts.skip_finished ? unfinished(chosen, opts) : chosen
    def rows = begun.collect { row, _digest -> row }
    if (opts.skip_finished) {
        log.info("${chosen.size() - begun.size()} of ${chosen.size()} sessions are finished, of the same inputs, parameters and code, and left as they are (--skip_finished)")
    }
    if (!rows) {
        exit(0)
    }
    forgetFinished(rows, opts)
    def record = recordStart(rows, opts)
    sessions = channel.fromList(rows)

    NEUROPIXELS(sessions, opts)

    NEUROPIXELS.out.versions
        .map { process, versions -> versionLines(process, versions) }
        .unique()
        .collectFile(
            name: 'software_versions.yml',
            storeDir: "${opts.outdir}/pipeline_info",
            sort: true,
            seed: "Workflow:\n  powerpixels: ${workflow.manifest.version}\n  Nextflow: ${workflow.nextflow.version}\n" + imageLines(opts)
        )

    workflow.onComplete = {
        def failures = failedTasks()
        if (failures) {
            log.error("${failures.size()} part${failures.size() > 1 ? 's' : ''} of the run failed; everything else is in ${opts.outdir}\n    " + failures.collect { failure -> failureLine(failure) }.join('\n    '))
        }
        else if (workflow.success && opts.stop_after) {
            log.info("Stopped after ${opts.stop_after.toUpperCase()}, as asked. The same command without --stop_after, with -resume, does the rest.")
        }
        else if (workflow.success) {
            log.info("All done. The results are in ${opts.outdir}, one line a probe in ${opts.outdir}/summary.csv")
        }
        if (workflow.success && !opts.stop_after) {
            keepFinished(begun, failures, opts)
        }
        recordEnd(record, workflow.success && !failures)
    }
}

// A process's software versions as YAML.
def versionLines(process, versions) {
    def named = new groovy.json.JsonSlurper().parse(versions)
    return "${process.tokenize(':').last()}:\n".toString() + named.collect { entry -> "  ${entry.key}: ${entry.value}\n" }.join('')
}

def imageLines(opts) {
    return imagesOf(opts).collect { name, digest -> "  ${name}: ${digest}\n".toString() }.join('')
}
