"""Work with Azure: log in, check, provision, submit and publish."""
