"""The detectors: the key is the file's path, the value its class. Importing this imports none of them."""

TABLE = {
    "image/patchcore": "PatchCore",
    "image/gaussian": "Gaussian",
    "image/draem": "Draem",
    "image/padim": "Padim",
    "image/simplenet": "SimpleNet",
    "image/efficientad": "EfficientAD",
    "image/supersimplenet": "SuperSimpleNet",
    "table/auto": "Auto",
    "table/isolation_forest": "IsolationForest",
    "table/knn": "KNN",
    "table/lof": "LOF",
    "table/ecod": "ECOD",
    "table/copod": "COPOD",
    "table/hbos": "HBOS",
    "table/smote_classifier": "SmoteClassifier",
    "table/pca": "PCA",
    "table/mahalanobis": "Mahalanobis",
    "table/one_class_svm": "OneClassSVM",
    "table/extended_isolation_forest": "ExtendedIsolationForest",
}
