"""The OOD metrics computed by scikit-learn, as the reference."""

import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve


def sklearn_metrics(id_scores, ood_scores):
    scores = np.concatenate([id_scores, ood_scores]).astype(np.float64)
    is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]

    def aupr(positive, s):
        precision, recall, _ = precision_recall_curve(positive, s)
        return auc(recall, precision)

    def fpr(positive, s):
        share, detected, _ = roc_curve(positive, s, drop_intermediate=False)
        return share[np.argmax(detected >= 0.95)]

    return {
        "auroc": roc_auc_score(is_ood, scores),
        "aupr_in": aupr(1 - is_ood, -scores),
        "aupr_out": aupr(is_ood, scores),
        "fpr95_id_positive": fpr(1 - is_ood, -scores),
        "fpr95_ood_positive": fpr(is_ood, scores),
    }
