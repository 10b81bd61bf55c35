"""The studio: a page in the browser over the sampling command.

A job is what is typed after `opensora sample`, so that page and command make the same files in the same folders.
`jobs` keeps them, `engine` has one `worker` process make them, `choices` says what can be asked for, `results` what is
in the output folder; `page` and its tabs show all that with Gradio, which nothing else imports.
"""
