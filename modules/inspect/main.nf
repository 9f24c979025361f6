include { folderOf ; memoryOf ; tagOf ; timeOf } from '../resources'

// Reads the headers of a session's raw folder and samples its data: which streams, probes and shanks there are,
// and what is wrong.
process INSPECT {
    tag { tagOf(meta) }
    publishDir "${params.outdir}/${folderOf(meta)}", mode: params.publish_dir_mode, pattern: 'inspect/{inventory,probes.description}.json', saveAs: { name -> name.endsWith('inventory.json') ? 'qc/inventory.json' : 'alf/probes.description.json' }

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
    pp_inspect.py --raw raw --raw-name "\$(readlink -f raw)" --subject '${meta.subject}' --session '${meta.session}' --out inspect
    """

    stub:
    """
    mkdir inspect
    echo '{}' > inspect/inventory.json
    echo '[]' > inspect/probes.description.json
    files() {
        find -L raw -type f -name "\$1" | sort | sed 's|^raw/||; s|.*|"&"|' | paste -sd, -
    }
    stream() {
        echo "{\\"stub\\": \\"\$1\\"}" > "inspect/\$1.json"
        streams="\$streams\${streams:+,}{\\"stream\\": \\"\$1\\", \\"probe\\": \\"\$2\\", \\"files\\": [\$(files "*.\$1.*")]}"
    }
    probes='' streams='' daqs='' reference=null
    for n in \$(find -L raw -type f -name '*.imec*.ap.meta' | sed -n 's|.*[.]imec\\([0-9]*\\)[.]ap[.]meta|\\1|p' | sort -n); do
        name=\$(printf 'probe%02d' "\$n")
        echo "{\\"stub\\": \\"\$name\\"}" > "inspect/\$name.json"
        probes="\$probes\${probes:+,}{\\"probe\\": \\"\$name\\", \\"shanks\\": [0, 1, 2, 3], \\"files\\": [\$(files "*.imec\$n.ap.*")], \\"blocked\\": null}"
        stream "imec\$n.ap" "\$name"
        stream "imec\$n.lf" "\$name"
    done
    for daq in nidq obx0; do
        if [ -n "\$(files "*.\$daq.*")" ]; then
            stream "\$daq" ''
            daqs="\$daqs\${daqs:+,}{\\"stream\\": \\"\$daq\\", \\"files\\": [\$(files "*.\$daq.*")]}"
        fi
    done
    if [ -f inspect/nidq.json ]; then
        reference='"nidq"'
    fi
    echo "{\\"session_blocked\\": null, \\"reference\\": \$reference, \\"probes\\": [\$probes], \\"daqs\\": [\$daqs], \\"streams\\": [\$streams]}" > inspect/probes.json
    echo '{}' > versions.json
    """
}
