include { memoryOf ; timeOf } from '../resources'

// Reads the headers of a session's raw folder: which streams, probes and shanks there are, and what is wrong.
process INSPECT {
    tag "${meta.subject}/${meta.session}"
    publishDir "${params.outdir}/${meta.subject}/${meta.session.replace('_', '/')}/qc", mode: params.publish_dir_mode, pattern: 'inspect/inventory.json', saveAs: { 'inventory.json' }

    cpus 1
    memory { memoryOf(task, 2.GB) }
    time { timeOf(task, 30.min) }

    input:
    // The fingerprint stands for the files below raw, which Nextflow does not look at.
    tuple val(meta), path(raw, stageAs: 'raw'), val(fingerprint)
    val code

    output:
    tuple val(meta), path('inspect/*.json'), emit: inspect
    tuple val(task.process), path('versions.json'), emit: versions

    script:
    """
    pp_inspect.py --raw raw --subject '${meta.subject}' --session '${meta.session}' --out inspect
    """

    stub:
    """
    mkdir inspect
    echo '{}' > inspect/inventory.json
    files() {
        find -L raw -type f -name "\$1" | sort | sed 's|^raw/||; s|.*|"&"|' | paste -sd, -
    }
    probes=''
    for n in \$(find -L raw -type f -name '*.imec*.ap.meta' | sed -n 's|.*[.]imec\\([0-9]*\\)[.]ap[.]meta|\\1|p' | sort -n); do
        name=\$(printf 'probe%02d' "\$n")
        echo "{\\"stub\\": \\"\$name\\"}" > "inspect/\$name.json"
        probes="\$probes\${probes:+,}{\\"probe\\": \\"\$name\\", \\"shanks\\": [0, 1, 2, 3], \\"files\\": [\$(files "*.imec\$n.ap.*")], \\"blocked\\": null}"
    done
    nidq=null
    if [ -n "\$(files '*.nidq.*')" ]; then
        echo '{"stub": "nidq"}' > inspect/nidq.json
        nidq="[\$(files '*.nidq.*')]"
    fi
    echo "{\\"session_blocked\\": null, \\"nidq\\": \$nidq, \\"probes\\": [\$probes]}" > inspect/probes.json
    echo '{}' > versions.json
    """
}
