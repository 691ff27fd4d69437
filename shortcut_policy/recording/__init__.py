"""Demonstrations and corrections of a person, recorded in a page of the browser."""
