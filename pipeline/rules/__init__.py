"""The rules that turn calibration scores into a threshold: the key is the file's name, the value its class."""

TABLE = {
    "false_alarm_rate": "FalseAlarmRate",
    "escape_rate": "EscapeRate",
    "cost": "Cost",
    "f1": "F1",
    "gaussian": "Gaussian",
    "extreme": "Extreme",
}
