"""The kinds of data: the key is the file's name, the value its class."""

TABLE = {"image": "Image", "table": "Table"}
