"""Losses on the router alone. One family per file; every term maps a `RouterOutput` to a scalar to minimise.

Of one layer, over the real tokens x of the batch, or of one modality: clean logits z(x), clean gates p(x) = softmax z,
mean gate P = mean_x p(x), entropy H(q) = -sum_e q_e ln q_e in nats, CV^2 = population variance / squared mean over the
experts. "Balanced" uses all E (or the S wanted) experts equally, "collapsed" sends every token, surely, to one expert.

| class                      | formula                                      | balanced | collapsed | normalised      |
|----------------------------|----------------------------------------------|----------|-----------|-----------------|
| classic.Importance         | CV^2(sum_x p_e(x))                           | 0        | E - 1     | 1 + CV^2        |
| classic.Load               | CV^2(sum_x P(noisy top K of x holds e))      | 0        | E - 1     | 1 + CV^2        |
| classic.ZLoss              | mean_x (ln sum_e exp z_e(x))^2               |          |           |                 |
| entropy.LocalEntropy       | mean_x H(p(x))                               |          | 0         |                 |
| entropy.GlobalEntropy      | max(0, ln S - H(P))                          | 0        | ln S      | min(1, e^H / S) |
| ... without threshold      | -H(P)                                        | -ln E    | 0         | e^H / E         |
| entropy.MutualInformation  | mean_x H(p(x)) - H(P)                        | -ln E    | 0         | -loss / ln E    |
| classic.Balance            | E sum_e f_e P_e, f = shares of first choices | 1        | E         | the loss        |

Sources: Importance, Load: V-MoE (compared with vmoe). Balance: GShard, Switch (compared with vmoe). ZLoss: ST-MoE. Both
entropies: LIMoE, section 3. MutualInformation: Mod-Squad, *unverified*. Normalised values are ours; 1 = balanced.

total = aux_total.weight * mean over active terms (weight * layer mean) + sum of (absolute_weight * layer mean).
"""
