"""The studio: a page in the browser that runs the sampling command.

A job is the arguments of `opensora sample`, so the page and the command write the same files to the same folders.
`jobs` keeps the queue, and `engine` passes jobs to a `worker` process. `choices` says what can be sampled, `results`
what is in the output folder. `page` and its tabs show all this with Gradio, which nothing else imports.
"""

LOCAL = ("127.0.0.1", "localhost")  # names of this machine; any other host needs a password
