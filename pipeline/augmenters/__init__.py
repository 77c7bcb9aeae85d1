"""The ways to make anomalies or to balance classes: the key is the file's name, the value its class."""

TABLE = {"none": "Nothing", "perlin": "Perlin", "cutpaste": "CutPaste", "smote": "Smote"}
