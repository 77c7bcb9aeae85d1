-- Run once, when PostgreSQL makes its volume; the third database, assay, is made by POSTGRES_DB.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
