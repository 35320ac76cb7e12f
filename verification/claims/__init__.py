"""The claims, one file a section of a paper, in the order in which the ledger shows them."""

SECTIONS = {
    "tnnls_2_preliminaries": "TNNLS Section II: the game and its training",
    "tnnls_3_influence": "TNNLS Section III-A to III-C: influence on parameters",
    "tnnls_3_errors": "TNNLS Section III-D and Appendix A: error bounds",
    "tnnls_4_metrics": "TNNLS Section IV: influence on metrics, algorithms, cost",
    "tnnls_5_supervised": "TNNLS Section V: supervised learning as a special case",
    "tnnls_6_lqgan": "TNNLS Section VI: what is said of LQGAN",
    "tnnls_text": "TNNLS: sentences of the text",
    "tnnls_b_extensions": "TNNLS Appendix B: extensions",
    "published_code": "The published code of TNNLS Section VI-C (StyleGAN)",
    "iclr_3_method": "ICLR Section 3, Section 4 and Appendix A",
    "sgd_influence": "NeurIPS 2019 (SGD-influence): Supplement A.2 and B",
    "core": "The core against the papers' definitions: metrics, optimisers, states, weights",
    "own_results": "Beyond the papers: sharper bounds and a certificate",
    "tools": "The ledger's own tools",
}
