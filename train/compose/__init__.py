"""From the command line to a checked `RunConfig`. Importable without torch.

app.py            composes a config with Hydra and calls a task with it; reads and writes config.yaml
groups.py         the config groups: dataclasses as default options, YAML files as the others
outside.py        config files outside configs/
keys.py           every key with its default, type and meaning
command_line.py   arguments, checked before Hydra sees them
errors.py         what Hydra raises, in one line that names the key
names.py          which key a wrong name may have meant
renamed.py        old names of keys, which keep working
"""
