"""Programs that say how good a model is: `eval.sh` and its kin.

Each is a folder of the same parts: `settings` (what is asked), `command` (from flags to files), `measure` (from
settings to numbers), `page` (from numbers to text), and what is its own. All read runs through `run_files`.
"""
