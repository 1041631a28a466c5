"""The part of `jova` that answers at once: it imports the standard library alone, and the work only once it is clear.

`import diffusers_jova` loads torch and diffusers, and so does everything below it. What a command line, a help text or
a refusal needs therefore lies here; what the commands do lies in the rooms of `diffusers_jova`.
"""

__version__ = "0.1.0"
